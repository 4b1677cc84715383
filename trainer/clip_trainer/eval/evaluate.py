"""Run the evaluations that the spec asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clip_trainer.eval.encoder import Encoder
from clip_trainer.eval.retrieval import retrieval
from clip_trainer.eval.zero_shot import zero_shot
from clip_trainer.model import get_precision
from clip_trainer.vision import OPENAI_PREPROCESS

if TYPE_CHECKING:
    from clip_trainer.train.run import Run


def evaluate(run: Run) -> dict[str, Any]:
    """Zero-shot accuracy and retrieval recall, as configured; the same numbers on every rank. Collective."""
    from clip_trainer.train.run import share_dataset  # the loop imports us

    section, results = run.spec.eval, {}
    encoder = Encoder(run.model, get_precision(run.spec.model.precision), OPENAI_PREPROCESS, run.group.device)
    run.model.eval()
    try:
        with torch.inference_mode():
            if section.zero_shot is not None and section.zero_shot.data is not None:
                dataset = share_dataset(section.zero_shot.data, run.group)
                results["zero_shot"] = zero_shot(encoder, run.group, dataset, section.zero_shot)
            if section.retrieval is not None:
                dataset = share_dataset(section.retrieval.data, run.group)
                results["retrieval"] = retrieval(encoder, run.group, dataset)
    finally:
        run.model.train()
    return results

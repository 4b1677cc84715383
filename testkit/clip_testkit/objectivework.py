"""Objectives of models of a few thousand weights in float64, whole and spread over ranks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip_testkit.contrastive import dense, dense_distillation, dense_sigmoid
from clip_trainer.data.loading.batch import Batch
from clip_trainer.loss import ContrastiveLoss, Features, SigmoidLoss
from clip_trainer.model import ClipModel, Precision, SpeedUps, create_model
from clip_trainer.model.config import ClipConfig
from clip_trainer.train.group import Group
from clip_trainer.train.objective import LossWeights, ModelObjective
from clip_trainer.train.objective_encoder import ModelEncoder, Runner
from clip_trainer.vision import OPENAI_PREPROCESS, normalize

CONTEXT, VOCABULARY, SIZE = 16, 50, 16
FP64 = Precision("fp64", weight_dtype=torch.float64, other_dtype=torch.float64)
CPU = torch.device("cpu")

_VISION = {"image_size": SIZE, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8}
_TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2}
_COCA_POOL = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 12, "vision_cfg": _VISION, "text_cfg": _TEXT},
    "siglip": {
        "embed_dim": 12,
        "vision_cfg": _VISION,
        "text_cfg": _TEXT,
        "init_logit_scale": 2.3,
        "init_logit_bias": -4.0,
        "nonscalar_logit_scale": True,
    },
    "coca": {
        "embed_dim": 16,  # the decoder looks at the image's tokens, so its width is this one
        "vision_cfg": _VISION | _COCA_POOL,
        "text_cfg": _TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": _TEXT | {"layers": 1, "attn_pooler_heads": 2},
        "custom_text": True,
    },
    "teacher": {"embed_dim": 8, "vision_cfg": _VISION, "text_cfg": _TEXT},
}


class Setup(NamedTuple):
    """What to minimise, and how to compute it."""

    kind: str
    """clip, siglip or coca."""
    taught: bool = False
    """Whether there is a teacher."""
    contrastive: float = 1.0
    """Weight of the contrastive term."""
    micro_batch: int = 100
    tile: int = 1024
    speed_ups: bool = True
    """Whether the model uses its shortcuts."""
    grad_checkpointing: bool = False
    """Whether activations are recomputed."""


def tiny_model(name: str, setup: Setup | None = None) -> ClipModel:
    """A model of `CONFIGS` in float64."""
    setup = setup or Setup(name)
    config = ClipConfig.from_dict(CONFIGS[name], name)
    shortcuts = SpeedUps(pooled_last_block=setup.speed_ups)
    model = create_model(config, "fp32", len(name), speed_ups=shortcuts).double()
    model.set_grad_checkpointing(setup.grad_checkpointing)
    return model


def objective_of(setup: Setup, model: ClipModel, group: Group, *, equal_pieces: bool = False) -> ModelObjective:
    """The objective of a setup; `equal_pieces` for sharded models."""
    teacher = tiny_model("teacher").eval().requires_grad_(False)
    contrast = SigmoidLoss(setup.tile) if setup.kind == "siglip" else ContrastiveLoss(setup.tile)
    weights = LossWeights(setup.contrastive, 2.0 if setup.kind == "coca" else 0.0)
    student, taught_by = (Runner(m, FP64, OPENAI_PREPROCESS, CPU) for m in (model, teacher))
    encoder = ModelEncoder(student, taught_by if setup.taught else None)
    return ModelObjective(encoder, group, contrast, weights, micro_batch=setup.micro_batch, equal_pieces=equal_pieces)


def tiny_batch(counts: tuple[int, ...], rank: int = 0) -> Batch:
    """This rank's part of a batch of `sum(counts)` pairs with captions of 3 to 7 tokens."""
    rows = sum(counts)
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (rows, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    tokens = torch.randint(1, VOCABULARY - 1, (rows, CONTEXT), generator=generator)
    ends = 2 + torch.arange(rows) % 5
    columns = torch.arange(CONTEXT)
    tokens = tokens.where(columns < ends[:, None], 0).where(columns != ends[:, None], VOCABULARY - 1)
    start = sum(counts[:rank])
    own = slice(start, start + counts[rank])
    return Batch(
        images=images[own],
        tokens=tokens[own],
        text_lengths=(ends[own] + 1).int(),
        text_max_len=int(ends[own].max()) + 1 if counts[rank] else 0,
        sample_ids=np.arange(rows, dtype=np.uint64)[own],
        position_start=14,
        position_end=14 + rows,
        counts=counts,
        replaced=(),
        wait_seconds=0.0,
    )


def gradients_of(model: ClipModel) -> dict[str, Tensor]:
    """Copies of the gradients that there are."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def dense_objective(setup: Setup, model: ClipModel, batch: Batch) -> dict[str, Tensor]:
    """The terms straight from their definitions, with all of everything in memory."""
    images = normalize(batch.images, OPENAI_PREPROCESS.mean, OPENAI_PREPROCESS.std, torch.float64)
    model.output_dict = True
    out = model(images, batch.tokens)
    model.output_dict = False
    image, text, scale = out["image_features"], out["text_features"], out["logit_scale"]
    terms = {}
    if setup.kind == "siglip":
        terms["contrastive_loss"] = dense_sigmoid(image, text, scale, out["logit_bias"])
    else:
        terms["contrastive_loss"] = setup.contrastive * dense(image, text, scale)
    if setup.kind == "coca":
        logits = out["logits"].permute(0, 2, 1)
        terms["caption_loss"] = 2 * cross_entropy(logits, batch.tokens[:, 1:], ignore_index=0)
    if setup.taught:
        teacher = tiny_model("teacher")
        with torch.no_grad():
            wanted = Features(*teacher(images, batch.tokens)[:3])
        terms["distill_loss"] = dense_distillation(Features(image, text, scale), wanted)
    return terms


def run_objectives(
    rank: int, setups: list[Setup], counts: tuple[int, ...]
) -> list[tuple[dict[str, float], dict[str, Any]]]:
    """For each setup, terms and gradients summed over the ranks of the default group."""
    group = Group(rank, len(counts), rank, CPU)
    batch, answers = tiny_batch(counts, rank), []
    for setup in setups:
        model = tiny_model(setup.kind, setup)
        terms = objective_of(setup, model, group).backward(batch)
        group.sum_gradients(model.parameters())
        summed = {name: group.sum(term.clone()).item() for name, term in terms.items()}
        answers.append((summed, {name: gradient.numpy() for name, gradient in gradients_of(model).items()}))
    return answers

"""Evaluation in miniature, also as work for the ranks of `run_ranks`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clip_testkit.rankwork import group_of, small_model
from clip_testkit.shards import png, sample_members, tar_bytes
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.loading.eval_stream import EvalStream
from clip_trainer.eval.encoder import Encoder, encoder_for
from clip_trainer.eval.evaluate import Evaluator
from clip_trainer.eval.pair_loss import validation_losses
from clip_trainer.eval.ranking import Rows
from clip_trainer.eval.retrieval import retrieval_metrics
from clip_trainer.model import get_precision
from clip_trainer.vision import OPENAI_PREPROCESS
from clipctl.contract.sections import EvalSection


def small_encoder(seed: int = 3) -> Encoder:
    """A small untrained model, ready to embed."""
    model = small_model(seed).eval()
    return encoder_for(model, get_precision("fp32"), torch.device("cpu"), OPENAI_PREPROCESS)


def evaluation(rank: int, world: int, section: dict[str, Any]) -> dict[str, Any]:
    """Everything that a section asks for, with a small untrained model."""
    evaluator = Evaluator(group_of(rank, world), EvalSection.model_validate(section))
    return evaluator.run(small_encoder(), evaluator.names)


def noisy_pairs(images: int, captions: int, seed: int, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors of images [n, d] and of `captions` texts for each [n, captions, d] that resemble them."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(images, width, generator=generator)
    text = image.unsqueeze(1) + 0.8 * torch.randn(images, captions, width, generator=generator)
    return torch.nn.functional.normalize(image, dim=-1), torch.nn.functional.normalize(text, dim=-1)


def share_of(rank: int, world: int, images: torch.Tensor, texts: torch.Tensor) -> tuple[Rows, Rows]:
    """The rows of one rank: every `world`-th image, with its captions."""
    ids = torch.arange(rank, len(images), world)
    captions = texts.shape[1]
    owners = ids.repeat_interleave(captions)
    keys = owners * captions + torch.arange(captions).repeat(len(ids))
    return Rows(images[ids], ids, ids), Rows(texts[ids].flatten(0, 1), owners, keys)


def retrieval_of_pairs(rank: int, world: int, images: int, captions: int, seed: int) -> dict[str, float]:
    """Retrieval metrics of `noisy_pairs`."""
    rows = share_of(rank, world, *noisy_pairs(images, captions, seed))
    return retrieval_metrics(group_of(rank, world), *rows)


def losses_of_pairs(rank: int, world: int, images: int, batch: int, bias: float | None) -> dict[str, float]:
    """Validation losses of `noisy_pairs`."""
    image, text = noisy_pairs(images, 1, 5)
    rows, texts = share_of(rank, world, image, text)
    group = group_of(rank, world)
    return validation_losses(
        group, rows.features, texts.features, rows.owners, logit_scale=10.0, logit_bias=bias, batch=batch
    )


def write_class_folders(folder: Path, names: dict[str, int], per_class: int = 3) -> None:
    """A sub-folder for each name with pictures of the number given to it and the following ones."""
    for name, first in names.items():
        (folder / name).mkdir(parents=True)
        for number in range(first, first + per_class):
            (folder / name / f"{number:04d}.png").write_bytes(png(number))


def write_captioned_dataset(folder: Path, counts: list[int]) -> None:
    """Shards of numbered pictures; picture i has 1 + i % 3 captions."""
    folder.mkdir(parents=True)
    number = 0
    for shard, count in enumerate(counts):
        members = []
        for i in range(number, number + count):
            captions = [f"picture {i} {word}" for word in ("one", "two", "three")[: 1 + i % 3]]
            members += sample_members(i, captions=captions)
        (folder / f"shard-{shard:06d}.tar").write_bytes(tar_bytes(members))
        number += count


def stream_of(url: str, encoder: Encoder) -> EvalStream:
    """All samples of a data set."""
    return EvalStream(open_dataset(url), decode=_decode, transform=lambda image, _: encoder.transform(image))


def _decode(data: bytes) -> Any:
    from clip_trainer.vision import decode_image

    return decode_image(data)

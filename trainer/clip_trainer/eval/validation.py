"""Held-out pairs: retrieval, validation loss and, for models that write captions, their loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy

from clip_trainer.data.loading.eval_stream import EvalChunk
from clip_trainer.eval.encoder import Encoder
from clip_trainer.eval.pair_loss import validation_losses
from clip_trainer.eval.ranking import Rows
from clip_trainer.eval.retrieval import retrieval_metrics
from clip_trainer.train.group import Group
from clipctl.contract.errors import CorruptError

MAX_CAPTIONS = 1 << 20
"""Captions of one image that have a place in the order of all captions."""


class PairTable:
    """The embeddings of one rank's pairs, collected chunk by chunk."""

    def __init__(self, captions: Literal["all", "first"]) -> None:
        self._first_only = captions == "first"
        self._images: list[torch.Tensor] = []
        self._texts: list[torch.Tensor] = []
        self._ids: list[int] = []
        self._captions: list[int] = []
        self.caption_loss = torch.zeros(2).double()  # sum over samples, and their number

    def add(self, encoder: Encoder, chunk: EvalChunk) -> None:
        """Embed a chunk; samples without a caption are left out."""
        has = [at for at, captions in enumerate(chunk.captions) if captions]
        if not has:
            return
        kept = [chunk.captions[at][: 1 if self._first_only else MAX_CAPTIONS] for at in has]
        images = chunk.images[has]
        self._images.append(encoder.images(images))
        self._texts.append(encoder.texts([text for captions in kept for text in captions]))
        self._ids += [chunk.sample_ids[at] for at in has]
        self._captions += [len(captions) for captions in kept]
        if writes_captions(encoder.model):
            losses = caption_losses(encoder, images, [captions[0] for captions in kept])
            self.caption_loss += torch.stack([losses.double().sum(), torch.tensor(float(len(losses))).double()])

    def images(self, width: int) -> Rows:
        """The images, in order."""
        ids = torch.tensor(self._ids, dtype=torch.int64)
        return Rows(torch.cat([torch.empty(0, width), *self._images]), ids, ids)

    def texts(self, width: int) -> Rows:
        """The captions, in the order of their images."""
        counts = torch.tensor(self._captions, dtype=torch.int64)
        owners = torch.tensor(self._ids, dtype=torch.int64).repeat_interleave(counts)
        nth = torch.cat([torch.arange(0), *(torch.arange(count) for count in self._captions)])
        return Rows(torch.cat([torch.empty(0, width), *self._texts]), owners, owners * MAX_CAPTIONS + nth)

    def first_texts(self, width: int) -> torch.Tensor:
        """The first caption of each image."""
        counts = torch.tensor(self._captions, dtype=torch.int64)
        return self.texts(width).features[counts.cumsum(0) - counts]

    def width(self) -> int:
        """Number of dimensions; 0 as long as there is nothing."""
        return int(self._images[0].shape[1]) if self._images else 0


def validate(
    encoder: Encoder, group: Group, pairs: Any, *, captions: Literal["all", "first"], loss_batch: int, name: str
) -> dict[str, float | int]:
    """All metrics of a data set of pairs. Collective; equal on every rank.

    Args:
        encoder: the model.
        group: the ranks.
        pairs: this rank's share, iterable in chunks, with a list `skipped` of what could not be decoded.
        captions: rank all captions of an image, or the first.
        loss_batch: see `validation_losses`.
        name: of the data set, for messages.

    Returns:
        OpenCLIP's names: `image_to_text_R@1` and so on, `clip_val_loss`, `num_samples`, `val_generative_loss` for
        CoCa; and `siglip_val_loss` for models with a bias, `num_captions`, `skipped`.

    Raises:
        CorruptError: there is no pair.
    """
    table = PairTable(captions)
    width = max(group.on_each(lambda: _collect(table, encoder, pairs)))
    images, texts = table.images(width), table.texts(width)
    counts = torch.tensor([len(images), len(texts), len(pairs.skipped)], device=group.device)
    samples, texts_total, skipped = group.sum(counts).tolist()
    if not samples:
        raise CorruptError(f"{name} has no image with a caption.", hint="Give eval.retrieval a data set of pairs.")
    losses = validation_losses(
        group,
        images.features,
        table.first_texts(width),
        images.owners,
        logit_scale=_value(encoder.model.logit_scale.exp()),
        logit_bias=None if getattr(encoder.model, "logit_bias", None) is None else _value(encoder.model.logit_bias),
        batch=loss_batch,
    )
    total, count = group.sum(table.caption_loss.to(group.device)).tolist()
    generative = {"val_generative_loss": total / count} if count else {}
    numbers = {"num_samples": samples, "num_captions": texts_total, "skipped": skipped}
    return retrieval_metrics(group, images, texts) | losses | generative | numbers


def writes_captions(model: Any) -> bool:
    """Whether the model has a decoder that writes captions (CoCa)."""
    return hasattr(model, "text_decoder")


def caption_losses(encoder: Encoder, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Mean cross-entropy of the next token for each sample [n], padding included, as in OpenCLIP's evaluation."""
    with torch.no_grad(), encoder.precision.autocast(encoder.device.type):
        out = encoder.model(encoder.pixels(images), encoder.tokens(texts))
    logits, labels = out["logits"], out["labels"]
    return cross_entropy(logits.float().permute(0, 2, 1), labels, reduction="none").mean(1).cpu()


def _collect(table: PairTable, encoder: Encoder, pairs: Iterator[EvalChunk]) -> int:
    for chunk in pairs:
        table.add(encoder, chunk)
    return table.width()


def _value(scalar: torch.Tensor) -> float:
    return float(scalar.detach().float().mean())

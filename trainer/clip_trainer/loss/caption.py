"""The captioning loss of CoCa (arXiv 2205.01917): cross-entropy of each next token, padding left out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from clip_trainer.loss.pairwise import widened

_CHUNK_ELEMENTS = 1 << 23  # logits widened at a time: 32 MiB of fp32


def caption_loss(logits: Tensor, labels: Tensor, *, tokens: int | Tensor, pad_id: int = 0) -> Tensor:
    """A part's contribution to the mean cross-entropy over all tokens of a batch.

    Additive: summed over micro-batches and ranks it is the loss of the batch. Logits of half precision are widened
    piece by piece, so that no float32 copy of all of them exists.

    Args:
        logits: [b, t, vocabulary].
        labels: [b, t] token ids.
        tokens: labels of the whole batch that are not `pad_id`. If there are none the loss is 0.
        pad_id: this label does not count.

    Raises:
        ValueError: the shapes contradict each other.
    """
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not belong to labels {tuple(labels.shape)}")
    with torch.autocast(logits.device.type, enabled=False):
        total = _SummedCrossEntropy.apply(logits.flatten(0, 1), labels.flatten(), pad_id)
    assert isinstance(total, Tensor)
    return total / torch.as_tensor(tokens, dtype=total.dtype, device=total.device).clamp(min=1)


def count_tokens(labels: Tensor, pad_id: int = 0) -> Tensor:
    """How many labels count, 0-d int64."""
    return (labels != pad_id).sum()


class _SummedCrossEntropy(torch.autograd.Function):
    """Sum of -log softmax(logits)[label] over rows whose label counts. [n, v], [n] -> 0-d."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, labels: Tensor, pad_id: int) -> Tensor:
        counted = labels != pad_id
        normaliser = widened(logits.new_empty(len(logits)))
        picked = torch.empty_like(normaliser)
        for rows in _chunks(logits):
            wide = widened(logits[rows])
            normaliser[rows] = wide.logsumexp(dim=1)
            picked[rows] = wide.gather(1, labels[rows, None]).squeeze(1)
        ctx.save_for_backward(logits, labels, counted, normaliser)
        return torch.where(counted, normaliser - picked, 0.0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, counted, normaliser = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = torch.empty_like(logits)
        weight = counted.to(normaliser.dtype) * upstream
        for rows in _chunks(logits):
            slopes = (widened(logits[rows]) - normaliser[rows, None]).exp_()
            slopes.scatter_add_(1, labels[rows, None], slopes.new_full((len(slopes), 1), -1.0))
            gradient[rows] = slopes.mul_(weight[rows, None]).to(gradient.dtype)
        return gradient, None, None


def _chunks(logits: Tensor) -> Iterator[slice]:
    size = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    for start in range(0, len(logits), size):
        yield slice(start, start + size)

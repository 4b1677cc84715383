"""Large batches in small memory with exact gradients: features first, graph later (GradCache, arXiv 2101.06983).

A contrastive loss over micro-batches is not the sum of their losses: every pair of the batch counts. So pass 1
computes the features of all micro-batches without a graph; the loss of all of them gives the gradient of each feature
and of the logit scale; pass 2 computes each micro-batch again with its graph and feeds those gradients in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from clip_trainer.loss.contrastive import LossOutput

MicroBatch = TypeVar("MicroBatch")
Features = tuple[Tensor, Tensor, Tensor]
"""Image features [b, d], text features [b, d], logit scale 0-d."""


def backward_cached(
    micro_batches: Sequence[MicroBatch],
    encode: Callable[[MicroBatch], Features],
    loss: Callable[[Tensor, Tensor, Tensor], LossOutput],
    *,
    key: int = 0,
    upstream: float = 1.0,
) -> LossOutput:
    """Forward and backward over the concatenation of `micro_batches`; gradients accumulate in `.grad`.

    Loss and all gradients, the logit scale's included, equal those of one large batch. With a single micro-batch there
    is one forward and one backward pass; with more, two forward passes.

    Args:
        micro_batches: this rank's batch in pieces; at least one (it may have no rows).
        encode: the model; called once or twice for each piece.
        loss: called once, with the features of all pieces (its collectives run once).
        key: seeds torch's generators together with the index of the piece, in both passes alike, so that dropout
            draws the same mask twice. The generators' state is put back afterwards.
        upstream: factor of all gradients; the returned loss does not have it.

    Returns:
        The loss, without a graph.
    """
    assert micro_batches
    if len(micro_batches) == 1:
        with _keyed_randomness(key, 0):
            out = loss(*encode(micro_batches[0]))
        (out.contribution * upstream).backward()  # type: ignore[no-untyped-call]
        return LossOutput(out.contribution.detach())
    image, text, scale, sizes = _encode_without_graph(micro_batches, encode, key)
    out = loss(image, text, scale)
    d_image, d_text, d_scale = torch.autograd.grad(out.contribution * upstream, (image, text, scale))
    pieces = zip(micro_batches, torch.split(d_image, sizes), torch.split(d_text, sizes), strict=True)
    for index, (micro_batch, image_gradient, text_gradient) in enumerate(pieces):
        with _keyed_randomness(key, index):
            live_image, live_text, live_scale = encode(micro_batch)
        # The scale is one number of the whole batch, so its gradient enters once.
        scale_gradient = d_scale if index == 0 else torch.zeros_like(d_scale)
        torch.autograd.backward(
            (live_image, live_text, live_scale),
            (image_gradient.to(live_image.dtype), text_gradient.to(live_text.dtype), scale_gradient),
        )
    return LossOutput(out.contribution.detach())


@torch.no_grad()
def _encode_without_graph(
    micro_batches: Sequence[MicroBatch], encode: Callable[[MicroBatch], Features], key: int
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Features of all pieces as leaves that want gradients, and the rows of each piece."""
    images, texts, scale = [], [], None
    for index, micro_batch in enumerate(micro_batches):
        with _keyed_randomness(key, index):
            image, text, scale = encode(micro_batch)
        images.append(image)
        texts.append(text)
    assert scale is not None
    leaves = [tensor.detach().requires_grad_() for tensor in (torch.cat(images), torch.cat(texts), scale)]
    return leaves[0], leaves[1], leaves[2], [len(image) for image in images]


@contextmanager
def _keyed_randomness(key: int, index: int) -> Iterator[None]:
    """Seed torch's generators from (key, index); put their state back at the end."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        # An odd multiplier spreads neighbouring keys; the generators take 64 bits.
        torch.manual_seed((key * 0x9E3779B97F4A7C15 + index) & ((1 << 63) - 1))
        yield

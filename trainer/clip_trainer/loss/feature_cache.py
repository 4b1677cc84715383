"""Large batches in small memory with exact gradients: features first, graph later (GradCache, arXiv 2101.06983).

A contrastive loss over micro-batches is not the sum of their losses: every pair of the batch counts. So pass 1
computes the features of all micro-batches without a graph; the loss of all of them gives the gradient of each feature
and of the logit scale and bias; pass 2 computes each micro-batch again with its graph and feeds those gradients in.
Losses that are sums over samples (captions) need no cache: they join in pass 2, one micro-batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from clip_trainer.loss.features import Features, LossTerms

MicroBatch = TypeVar("MicroBatch")
MicroBatch_contra = TypeVar("MicroBatch_contra", contravariant=True)
PairTerms = Callable[[Features, "Features | None"], LossTerms]
"""The losses over pairs: of the features of the batch and of the teacher's, if there is one."""


class Encoder(Protocol[MicroBatch_contra]):
    """A model as the cache sees it. What it draws at random must begin alike in both methods (see `key`)."""

    def features(self, part: MicroBatch_contra) -> Features:
        """What the losses over pairs need. Called without a graph, and only if there are several micro-batches."""
        ...

    def features_and_terms(self, part: MicroBatch_contra) -> tuple[Features, LossTerms]:
        """The same with a graph, and the micro-batch's part of the losses that are sums over samples."""
        ...

    def teacher(self, part: MicroBatch_contra) -> Features | None:
        """What a teacher makes of it. Called once for each micro-batch, without a graph."""
        ...


def backward_cached(
    micro_batches: Sequence[MicroBatch],
    encoder: Encoder[MicroBatch],
    pair_terms: PairTerms | None,
    *,
    key: int = 0,
    upstream: float = 1.0,
) -> LossTerms:
    """Forward and backward over the concatenation of `micro_batches`; gradients accumulate in `.grad`.

    Losses and all gradients, those of logit scale and bias included, equal those of one large batch. With a single
    micro-batch there is one forward and one backward pass; with more, two forward passes.

    Args:
        micro_batches: this rank's batch in pieces; at least one (it may have no rows).
        encoder: the model.
        pair_terms: called once, with the features of all pieces (its collectives run once). None: no such losses.
        key: seeds torch's generators together with the index of the piece, in both passes alike, so that dropout
            draws the same mask twice. The generators' state is put back afterwards.
        upstream: factor of all gradients; the returned losses do not have it.

    Returns:
        The losses, without a graph.
    """
    assert micro_batches
    if pair_terms is None:
        return _backward_sums(micro_batches, encoder, None, key, upstream)
    if len(micro_batches) == 1:
        return _backward_whole(micro_batches[0], encoder, pair_terms, key, upstream)
    features, teacher, sizes = _encode_without_graph(micro_batches, encoder, key)
    terms = pair_terms(features, teacher)
    gradients = _feature_gradients(terms, features, upstream)
    sums = _backward_sums(micro_batches, encoder, _split(gradients, sizes), key, upstream)
    return _detached(terms) | sums


def _backward_whole(
    part: MicroBatch, encoder: Encoder[MicroBatch], pair_terms: PairTerms, key: int, upstream: float
) -> LossTerms:
    """The plain way, for a batch in one piece."""
    with torch.no_grad():
        teacher = encoder.teacher(part)
    with keyed_randomness(key, 0):
        features, sums = encoder.features_and_terms(part)
    terms = pair_terms(features, teacher) | sums
    (_total(terms.values()) * upstream).backward()  # type: ignore[no-untyped-call]
    return _detached(terms)


def _backward_sums(
    micro_batches: Sequence[MicroBatch],
    encoder: Encoder[MicroBatch],
    gradients: Iterable[Features] | None,
    key: int,
    upstream: float,
) -> LossTerms:
    """Pass 2: each piece with its graph; the gradients of its features come from outside, if there are any."""
    sums: LossTerms = {}
    pending = iter(gradients) if gradients is not None else None
    for index, part in enumerate(micro_batches):
        with keyed_randomness(key, index):
            features, terms = encoder.features_and_terms(part)
        outputs, seeds = [], []
        if terms:
            total = _total(terms.values())
            outputs.append(total)
            seeds.append(torch.full_like(total, upstream))
        if pending is not None:
            for output, seed in zip(features, next(pending), strict=True):
                # Not those of a frozen tower.
                if output is not None and seed is not None and output.requires_grad:
                    outputs.append(output)
                    seeds.append(seed.to(output.dtype))
        if outputs:
            torch.autograd.backward(outputs, seeds)
        for name, term in terms.items():
            sums[name] = sums[name] + term.detach() if name in sums else term.detach()
    return sums


@torch.no_grad()
def _encode_without_graph(
    micro_batches: Sequence[MicroBatch], encoder: Encoder[MicroBatch], key: int
) -> tuple[Features, Features | None, list[int]]:
    """Pass 1: features of all pieces as leaves that want gradients, the teacher's, and the rows of each piece."""
    features, teachers = [], []
    for index, part in enumerate(micro_batches):
        teacher = encoder.teacher(part)
        with keyed_randomness(key, index):
            features.append(encoder.features(part))
        if teacher is not None:
            teachers.append(teacher)
    leaves = [None if t is None else t.detach().requires_grad_() for t in _joined(features)]
    image, text, scale, bias = leaves
    assert image is not None
    assert text is not None
    assert scale is not None
    sizes = [len(piece.image) for piece in features]
    return Features(image, text, scale, bias), _joined(teachers) if teachers else None, sizes


def _joined(pieces: Sequence[Features]) -> Features:
    """All rows; scale and bias are numbers of the whole batch, the same in each piece."""
    image, text = torch.cat([piece.image for piece in pieces]), torch.cat([piece.text for piece in pieces])
    return Features(image, text, pieces[0].scale, pieces[0].bias)


def _feature_gradients(terms: LossTerms, features: Features, upstream: float) -> Features:
    leaves = [tensor for tensor in features if tensor is not None]
    gradients = torch.autograd.grad(_total(terms.values()) * upstream, leaves)
    return Features(*gradients)


def _split(gradients: Features, sizes: Sequence[int]) -> Iterator[Features]:
    """The gradients of each piece. Scale and bias are numbers of the whole batch, so theirs enter once."""
    scale, bias = gradients.scale, gradients.bias
    images, texts = torch.split(gradients.image, list(sizes)), torch.split(gradients.text, list(sizes))
    for image, text in zip(images, texts, strict=True):
        yield Features(image, text, scale, bias)
        scale, bias = torch.zeros_like(scale), None if bias is None else torch.zeros_like(bias)


def _total(terms: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, terms)


def _detached(terms: LossTerms) -> LossTerms:
    return {name: term.detach() for name, term in terms.items()}


@contextmanager
def keyed_randomness(key: int, index: int) -> Iterator[None]:
    """Seed torch's generators from (key, index); put their state back at the end."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        # An odd multiplier spreads neighbouring keys; the generators take 64 bits.
        torch.manual_seed((key * 0x9E3779B97F4A7C15 + index) & ((1 << 63) - 1))
        yield

"""Losses over all pairs of a global batch: rows here, columns gathered, gradients of the columns reduce-scattered.

With logits S_ij = scale * <image_i, text_j> + bias, rank r owns the rows of its own images, so only the texts are
gathered. A kernel walks over tiles of its rows and returns the loss together with its gradients; the backward pass
only moves them. At no time does more of S exist than one tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from clip_trainer.loss.exchange import Exchange, exchange_for

DEFAULT_TILE = 1024
"""Side of a tile: 4 MiB of fp32, large enough for full speed of a matrix product."""


class PairGradients(NamedTuple):
    """Gradients of the loss of the global batch, as far as this rank's rows of S make them."""

    rows: Tensor
    """[b, d], with respect to scale * image; complete, as all of a row of S is here."""
    columns: list[Tensor]
    """One [counts[r], d] a rank, with respect to the texts; the sum over ranks is the whole."""
    bias: Tensor
    """0-d, this rank's share."""


class PairKernel(Protocol):
    """One loss over pairs."""

    def __call__(
        self, scaled: Tensor, blocks: Sequence[Tensor], bias: Tensor, exchange: Exchange, differentiate: bool
    ) -> tuple[Tensor, PairGradients | None]:
        """The loss of this rank's own rows and own columns (0-d), and its gradients if wanted.

        Args:
            scaled: [b, d], scale * image.
            blocks: the texts, one [counts[r], d] a rank.
            bias: 0-d.
            exchange: to combine over ranks what spans them. May be called only in ways that are alike on all ranks.
            differentiate: whether gradients are wanted.
        """
        ...


def pair_exchange(
    image_features: Tensor,
    text_features: Tensor,
    group: dist.ProcessGroup | None = None,
    counts: Sequence[int] | None = None,
) -> Exchange:
    """The exchange for a batch of pairs, checked.

    Args:
        image_features: [b, d].
        text_features: [b, d].
        group: ranks that share the batch; None means the default group, or this process alone if there is none.
        counts: b of each rank of the group; they may differ and may be 0. None means all have b.

    Raises:
        ValueError: shapes, counts and group contradict each other, or the global batch is empty.
    """
    if image_features.shape != text_features.shape or image_features.ndim != 2:
        raise ValueError(
            f"image and text features differ in shape: {tuple(image_features.shape)} and {tuple(text_features.shape)}"
        )
    exchange = exchange_for(len(image_features), group, counts)
    if sum(exchange.counts) == 0:
        raise ValueError("the global batch is empty")
    return exchange


def check_tile(tile: int) -> int:
    """`tile` if it can be the side of a block.

    Raises:
        ValueError: it is not positive.
    """
    if tile < 1:
        raise ValueError(f"tile must be positive, not {tile}")
    return tile


def widened(tensor: Tensor) -> Tensor:
    """In at least float32: sums over a large batch need it, and losses are a tiny part of a step."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def pair_loss(
    kernel: PairKernel, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, exchange: Exchange
) -> Tensor:
    """This rank's contribution to the loss, 0-d and differentiable (once) with respect to all four tensors.

    Sum, not average, gradients over ranks afterwards: each rank's gradient is its share of the whole. All ranks call
    this and its backward pass (they contain collectives), with the same upstream gradient.
    """
    image, text = widened(image), widened(text)
    # Reshaped, as some configurations have a scale of shape [1].
    scale = scale.to(image.dtype).reshape(())
    offset = image.new_zeros(()) if bias is None else bias.to(image.dtype).reshape(())
    differentiate = torch.is_grad_enabled() and any(t.requires_grad for t in (image, text, scale, offset))
    contribution = _PairLoss.apply(image, text, scale, offset, exchange, kernel, differentiate)
    assert isinstance(contribution, Tensor)
    return contribution


class PairLoss(ABC):
    """A loss over all pairs of a global batch.

    Args:
        tile: side of the blocks of the similarity matrix that exist at a time.

    Raises:
        ValueError: `tile` is not positive.
    """

    def __init__(self, tile: int = DEFAULT_TILE) -> None:
        self.tile = check_tile(tile)

    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        group: dist.ProcessGroup | None = None,
        counts: Sequence[int] | None = None,
        *,
        logit_bias: Tensor | None = None,
        exchange: Exchange | None = None,
    ) -> Tensor:
        """This rank's contribution to the loss of the global batch. See `pair_loss` for the gradients.

        Args:
            image_features: [b, d], rows of unit length.
            text_features: [b, d], row i describes image i.
            logit_scale: 0-d inverse temperature (already exponentiated).
            group: ranks that share the batch; None means the default group, or this process alone if there is none.
            counts: b of each rank of the group; they may differ and may be 0. None means all have b.
            logit_bias: 0-d offset of all logits; None means 0. A softmax does not change with it.
            exchange: in place of `group` and `counts`.

        Raises:
            ValueError: shapes, counts and group contradict each other, or the global batch is empty.
        """
        exchange = exchange or pair_exchange(image_features, text_features, group, counts)
        return pair_loss(self.kernel, image_features, text_features, logit_scale, logit_bias, exchange)

    @abstractmethod
    def kernel(
        self, scaled: Tensor, blocks: Sequence[Tensor], bias: Tensor, exchange: Exchange, differentiate: bool
    ) -> tuple[Tensor, PairGradients | None]:
        """See `PairKernel`."""


class _PairLoss(torch.autograd.Function):
    """A kernel as a differentiable function of features, scale and bias."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        exchange: Exchange,
        kernel: PairKernel,
        differentiate: bool,
    ) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            blocks = exchange.gather_rows(text)
            contribution, gradients = kernel(image * scale, blocks, bias, exchange, differentiate)
        if gradients is not None:
            ctx.save_for_backward(image, scale, gradients.rows, gradients.bias, *gradients.columns)
        ctx.exchange = exchange  # type: ignore[attr-defined]
        return contribution

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        image, scale, d_scaled, d_bias, *d_blocks = ctx.saved_tensors  # type: ignore[attr-defined]
        exchange: Exchange = ctx.exchange  # type: ignore[attr-defined]
        d_text = exchange.reduce_rows(d_blocks) * upstream
        # S depends on the scale through the scaled rows only, and every entry of S lies on one rank.
        d_scale = (d_scaled * image).sum() * upstream
        return d_scaled * (scale * upstream), d_text, d_scale, d_bias * upstream, None, None, None

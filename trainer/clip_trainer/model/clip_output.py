"""What models give to a loss, and the switches of their exact shortcuts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class SpeedUps:
    """Exact shortcuts of the model, each of which can be switched off to check it.

    Text truncation is the caller's: pass `text_length` or None to `forward`.
    """

    pooled_last_block: bool = True
    """Compute the last block of a tower for the pooled token only, where only one token is pooled."""


class ClipOutput(NamedTuple):
    """What a forward pass gives to the loss: OpenCLIP's tuple, with names."""

    image_features: Tensor
    """[n, embed_dim], rows of unit length. (None, as in OpenCLIP, if the model was called without images.)"""
    text_features: Tensor
    """[n, embed_dim], rows of unit length. (None if the model was called without text.)"""
    logit_scale: Tensor
    """0-d or [1], the inverse temperature (already exponentiated)."""

    @property
    def logit_bias(self) -> Tensor | None:
        """No bias: see `BiasedClipOutput`."""
        return None


class BiasedClipOutput(NamedTuple):
    """`ClipOutput` of a model with a logit bias (SigLIP)."""

    image_features: Tensor
    """See `ClipOutput`."""
    text_features: Tensor
    """See `ClipOutput`."""
    logit_scale: Tensor
    """See `ClipOutput`."""
    logit_bias: Tensor
    """0-d or [1], added to every similarity."""

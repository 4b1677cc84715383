"""What all models have in common: an image tower and a text tower that meet in one space (arXiv 2103.00020)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_trainer.model.clip_output import BiasedClipOutput, ClipOutput
from clip_trainer.model.config import ClipConfig
from clip_trainer.model.init_streams import Streams
from clip_trainer.model.intermediates_joint import joint_output


class ClipModel(nn.Module):
    """Base of `CLIP`, `CustomTextCLIP` and `CoCa`.

    Attributes:
        config: shape of the model.
        visual: the image tower.
        logit_scale: log of the inverse temperature.
        logit_bias: added to every similarity, or None.
        output_dict: return dicts from `forward` in place of tuples.
    """

    config: ClipConfig
    visual: nn.Module
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None
    output_dict: bool
    context_length: int

    def _join(self, config: ClipConfig) -> None:
        """Add what joins the towers (after `__init__` of torch's module)."""
        self.config = config
        self.output_dict = False
        shape = (1,) if config.nonscalar_logit_scale else ()
        self.logit_scale = nn.Parameter(torch.empty(shape))
        has_bias = config.init_logit_bias is not None
        self.logit_bias = nn.Parameter(torch.empty(shape)) if has_bias else None

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Embed normalised images [n, 3, height, width] as [n, embed_dim].

        Args:
            image: in the type `Precision.image_dtype`.
            normalize: scale each row to unit length.
        """
        features: Tensor = self.visual(image)
        return functional.normalize(features, dim=-1) if normalize else features

    @abstractmethod
    def encode_text(self, text: Tensor, normalize: bool = False, text_length: int | None = None) -> Tensor:
        """Embed token ids [n, context_length] as [n, embed_dim].

        Args:
            text: int64.
            normalize: scale each row to unit length.
            text_length: columns that matter (see `TextTower.embed_text`); towers that need all ignore it.
        """

    def forward(self, image: Tensor | None = None, text: Tensor | None = None, text_length: int | None = None) -> Any:
        """Embed a batch of pairs for the loss (see `encode_image` and `encode_text` for the arguments).

        Returns:
            `ClipOutput`, or `BiasedClipOutput` if there is a bias; with `output_dict` a dict with the same names. A
            feature whose input is missing is None.
        """
        scale = self.logit_scale.exp()
        # None only for callers that leave an input out, and they know which.
        image_features = cast(Tensor, None if image is None else self.encode_image(image, normalize=True))
        text_features = cast(Tensor, None if text is None else self.encode_text(text, True, text_length))
        out: ClipOutput | BiasedClipOutput = ClipOutput(image_features, text_features, scale)
        if self.logit_bias is not None:
            out = BiasedClipOutput(image_features, text_features, scale, self.logit_bias)
        return out._asdict() if self.output_dict else out

    def get_logits(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled similarities of every image with every text, [images, texts], and their transpose."""
        features = self.encode_image(image, normalize=True), self.encode_text(text, normalize=True)
        return self.logits_of(*features)

    def logits_of(self, image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
        """`get_logits` of normalised features."""
        logits = self.logit_scale.exp() * image_features @ text_features.T
        if self.logit_bias is not None:
            logits = logits + self.logit_bias
        return logits, logits.T

    def forward_intermediates(
        self,
        image: Tensor | None = None,
        text: Tensor | None = None,
        image_indices: int | Sequence[int] | None = None,
        text_indices: int | Sequence[int] | None = None,
        stop_early: bool = False,
        normalize: bool = True,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        image_output_fmt: str = "NCHW",
        image_output_extra_tokens: bool = False,
        text_output_fmt: str = "NLC",
        text_output_extra_tokens: bool = False,
        output_logits: bool = False,
        output_logit_scale_bias: bool = False,
    ) -> dict[str, Any]:
        """Features together with what the blocks of the towers gave.

        Args:
            image: normalised images [n, 3, height, width].
            text: token ids [n, context_length].
            image_indices: wanted blocks of the image tower: the last n, the given ones, or all (None).
            text_indices: the same of the text tower.
            stop_early: compute no block after the last wanted one.
            normalize: scale features to unit length.
            normalize_intermediates: apply the towers' final norm to each intermediate.
            intermediates_only: leave features and logits out.
            image_output_fmt: "NCHW" or "NLC".
            image_output_extra_tokens: also return class tokens of the image tower.
            text_output_fmt: "NLC".
            text_output_extra_tokens: also return class tokens of a text tower that has them.
            output_logits: also return `image_logits` and `text_logits`; needs both inputs.
            output_logit_scale_bias: also return `logit_scale` (exponentiated) and `logit_bias`.

        Raises:
            ValueError: wrong format or index, or logits wanted of one input.
        """
        wants_logits = output_logits and not intermediates_only
        if wants_logits and (image is None or text is None):
            raise ValueError("both images and text are required to compute logits")
        common: dict[str, Any] = {
            "stop_early": stop_early,
            "normalize_intermediates": normalize_intermediates,
            "intermediates_only": intermediates_only,
        }
        found: dict[str, Any] = {}
        if image is not None:
            tower: Any = self.visual
            shape = {"output_fmt": image_output_fmt, "output_extra_tokens": image_output_extra_tokens}
            found |= tower.forward_intermediates(image, indices=image_indices, **shape, **common)
        if text is not None:
            shape = {"output_fmt": text_output_fmt, "output_extra_tokens": text_output_extra_tokens}
            found |= self._text_intermediates(text, indices=text_indices, **shape, **common)
        return joint_output(self, found, normalize and not intermediates_only, wants_logits, output_logit_scale_bias)

    @abstractmethod
    def _text_intermediates(self, text: Tensor, **options: Any) -> dict[str, Any]:
        """`forward_intermediates` of the text tower."""

    def lock_image_tower(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the image tower but for its last groups of layers (LiT, arXiv 2111.07991)."""
        tower: Any = self.visual
        tower.lock(unlocked_groups=unlocked_groups, freeze_bn_stats=freeze_bn_stats)

    @abstractmethod
    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the text tower but for its last groups of layers."""

    @abstractmethod
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks of both towers in the backward pass."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Parameters that are never decayed although they have two dimensions."""

    def set_patch_dropout(self, rate: float) -> None:
        """Change the share of image patches left out in training (for schedules).

        Raises:
            ValueError: not 0 <= rate < 1, or the image tower has no patch dropout.
        """
        setter = getattr(self.visual, "set_patch_dropout", None)
        if setter is None:
            raise ValueError("the image tower of this model has no patch dropout")
        setter(rate)

    def init_parameters(self, streams: Streams, prefix: str) -> None:
        """Fill what joins the towers."""
        streams.fill(self.logit_scale, self.config.init_logit_scale)
        if self.logit_bias is not None:
            assert self.config.init_logit_bias is not None
            streams.fill(self.logit_bias, self.config.init_logit_bias)

    def _visual_no_weight_decay(self) -> set[str]:
        tower: Any = self.visual
        return {f"visual.{name}" for name in tower.no_weight_decay()}

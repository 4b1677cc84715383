"""CLIP with the text tower at its root (arXiv 2103.00020)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from clip_trainer.model.clip_model import ClipModel
from clip_trainer.model.clip_output import BiasedClipOutput, ClipOutput, SpeedUps
from clip_trainer.model.config import ClipConfig
from clip_trainer.model.init_streams import Streams
from clip_trainer.model.locks import lock_groups
from clip_trainer.model.text_transformer import TextTower
from clip_trainer.model.towers import build_vision

__all__ = ["CLIP", "BiasedClipOutput", "ClipOutput", "SpeedUps"]


class CLIP(ClipModel, TextTower):
    """Both towers.

    It *is* the text tower with an image tower attached, because OpenCLIP's checkpoint layout keeps the parts of the
    text tower at the root (`token_embedding`, `transformer`, ...) and those of the image tower below `visual`.

    Args:
        config: shape of the model.
        speed_ups: exact shortcuts to use.
    """

    def __init__(self, config: ClipConfig, speed_ups: SpeedUps) -> None:
        TextTower.__init__(
            self,
            config.text,
            config.embed_dim,
            quick_gelu=config.quick_gelu,
            pooled_last_block=speed_ups.pooled_last_block,
        )
        self._join(config)
        self.visual = build_vision(config, speed_ups)
        for name in ("transformer", "token_embedding", "ln_final", "text_projection"):
            if name in self._modules:
                # Behind `visual`: optimiser checkpoints of OpenCLIP number parameters in its order.
                self._modules[name] = self._modules.pop(name)

    def encode_text(self, text: Tensor, normalize: bool = False, text_length: int | None = None) -> Tensor:
        """See `ClipModel.encode_text`."""
        features = self.embed_text(text, text_length)
        return functional.normalize(features, dim=-1) if normalize else features

    def _text_intermediates(self, text: Tensor, **options: Any) -> dict[str, Any]:
        # OpenCLIP has neither a choice of format nor an early stop here.
        return self.text_intermediates(
            text,
            options["indices"],
            normalize_intermediates=options["normalize_intermediates"],
            intermediates_only=options["intermediates_only"],
        )

    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the text tower but for its last groups of layers (see `clip_trainer.model.locks`).

        Args:
            unlocked_layers: how many groups of `text_layer_groups` stay trainable.
            freeze_layer_norm: False leaves the layer norms of frozen groups trainable.
        """
        lock_groups(self, self.text_layer_groups(), unlocked_layers, freeze_layer_norm=freeze_layer_norm)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See `ClipModel.set_grad_checkpointing`."""
        tower: Any = self.visual
        tower.set_grad_checkpointing(enable)
        self.transformer.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """See `ClipModel.no_weight_decay`."""
        return {"positional_embedding"} | self._visual_no_weight_decay()

    def init_parameters(self, streams: Streams, prefix: str) -> None:
        """Fill the text tower and what joins the towers."""
        TextTower.init_parameters(self, streams, prefix)
        ClipModel.init_parameters(self, streams, prefix)

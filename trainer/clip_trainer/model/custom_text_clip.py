"""CLIP with a text tower of any kind, kept below `text`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from clip_trainer.model.clip_model import ClipModel
from clip_trainer.model.clip_output import SpeedUps
from clip_trainer.model.config import ClipConfig
from clip_trainer.model.text_transformer import TextTransformer
from clip_trainer.model.towers import build_text, build_vision


class CustomTextCLIP(ClipModel):
    """Both towers, each a module of its own.

    Args:
        config: shape of the model.
        speed_ups: exact shortcuts to use.
    """

    def __init__(self, config: ClipConfig, speed_ups: SpeedUps) -> None:
        nn.Module.__init__(self)
        self._join(config)
        self.visual = build_vision(config, speed_ups)
        self.text: Any = build_text(config, speed_ups)
        self.context_length = config.text.context_length
        self.vocab_size = config.text.vocab_size

    def encode_text(self, text: Tensor, normalize: bool = False, text_length: int | None = None) -> Tensor:
        """See `ClipModel.encode_text`."""
        native = isinstance(self.text, TextTransformer)
        features: Tensor = self.text(text, text_length) if native else self.text(text)
        return functional.normalize(features, dim=-1) if normalize else features

    def _text_intermediates(self, text: Tensor, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.text.forward_intermediates(text, **options)
        return found

    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """See `ClipModel.lock_text_tower`."""
        self.text.lock(unlocked_layers, freeze_layer_norm)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See `ClipModel.set_grad_checkpointing`."""
        towers: tuple[Any, Any] = (self.visual, self.text)
        for tower in towers:
            tower.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """See `ClipModel.no_weight_decay`."""
        return self._visual_no_weight_decay() | {f"text.{name}" for name in self.text.no_weight_decay()}

"""The transforms of a run: what its specification and its model ask for, together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clip_trainer.vision.decode import Pixels
from clip_trainer.vision.preprocess import OPENAI_PREPROCESS, Preprocess
from clip_trainer.vision.resizing import height_width
from clip_trainer.vision.transform import eval_transform, train_transform
from clipctl.contract.sections import AugmentSection, PreprocessSection


@dataclass(frozen=True)
class Transforms:
    """From decoded images to the model's input, as uint8; `preprocess` says how to normalise it."""

    image_size: tuple[int, int]
    """Height and width of the model's input, pixels."""
    preprocess: Preprocess
    """Normalisation and resizing, the run's overrides included."""
    augment: AugmentSection
    """How training images are varied."""

    def train(self, image: Pixels, key: int) -> Tensor:
        """Training input: uint8 [3, height, width] from pixels [h, w, 3] and a 64-bit key that decides every draw."""
        return train_transform(image, self.image_size, key, self.augment, self.preprocess)

    def evaluate(self, image: Pixels, key: int = 0) -> Tensor:
        """Evaluation input: uint8 [3, height, width] from pixels [h, w, 3]; the key plays no part."""
        return eval_transform(image, self.image_size, self.preprocess)


def transforms_for(
    model: Any, preprocess: PreprocessSection | None = None, augment: AugmentSection | None = None
) -> Transforms:
    """The transforms that fit a model.

    Args:
        model: has `visual.image_size`, and `visual.preprocess_cfg` if its weights ask for a preprocessing of their own.
        preprocess: the run's overrides (`model.preprocess`).
        augment: the run's `data.augment`.
    """
    augment = augment or AugmentSection()
    asked = OPENAI_PREPROCESS.overlaid(getattr(model.visual, "preprocess_cfg", None) or {})
    overrides = {} if preprocess is None else preprocess.model_dump()
    return Transforms(height_width(model.visual.image_size), asked.overlaid(overrides), augment)

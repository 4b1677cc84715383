"""From Pillow images to normalised float tensors, as a chain of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Compose:
    """Call one step after the other.

    Args:
        transforms: the steps, also an attribute, as users of OpenCLIP look into them.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Image.Image) -> Tensor:
        """All steps; the last one makes the result."""
        result: Any = image
        for step in self.transforms:
            result = step(result)
        assert isinstance(result, Tensor)
        return result

    def __repr__(self) -> str:
        return "\n".join(["Compose(", *(f"    {step}" for step in self.transforms), ")"])


class MaybeConvertMode:
    """Pillow images to a colour mode; arrays and tensors pass."""

    def __init__(self, mode: str = "RGB") -> None:
        self.mode = mode

    def __call__(self, image: Any) -> Any:
        """The converted image."""
        return image if isinstance(image, (np.ndarray, Tensor)) else image.convert(self.mode)

    def __repr__(self) -> str:
        return "MaybeConvertMode()"


class MaybeToTensor:
    """Pillow images and uint8 arrays [h, w, channels] to float tensors [channels, h, w], 0 to 1; tensors pass."""

    def __call__(self, image: Any) -> Tensor:
        """The tensor."""
        if isinstance(image, Tensor):
            return image
        pixels = np.array(image)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        planes = torch.from_numpy(pixels.transpose(2, 0, 1)).contiguous()
        return planes.to(torch.get_default_dtype()).div_(255) if planes.dtype == torch.uint8 else planes

    def __repr__(self) -> str:
        return "MaybeToTensor()"


class Normalize:
    """(x - mean) / std for each channel of a float tensor [..., channels, h, w].

    Raises:
        ValueError: a std is 0.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if not all(std):
            raise ValueError(f"std {list(std)} would divide by zero")
        self.mean = mean
        self.std = std

    def __call__(self, tensor: Tensor) -> Tensor:
        """The normalised tensor, a new one."""
        means = torch.tensor(self.mean, dtype=tensor.dtype, device=tensor.device).reshape(-1, 1, 1)
        stds = torch.tensor(self.std, dtype=tensor.dtype, device=tensor.device).reshape(-1, 1, 1)
        return tensor.sub(means).div_(stds)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"

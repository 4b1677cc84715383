"""Images and texts to unit vectors, with everything that belongs in front of a model's two towers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clip_trainer.model import Precision
from clip_trainer.text import tokenizer_for
from clip_trainer.vision import Preprocess, eval_transform, normalize
from clip_trainer.vision.decode import Pixels

CHUNK = 128


@dataclass(frozen=True)
class Encoder:
    """A model in use: it never changes the model, nor records gradients.

    Attributes:
        model: has `encode_image` and `encode_text`.
        tokenize: texts to token ids [n, context], an array or a tensor.
        transform: decoded pixels to the uint8 image [3, h, w] the model takes.
        preprocess: mean and standard deviation of the images.
        precision: how to run the towers.
        device: where they are.
    """

    model: Any
    tokenize: Callable[[list[str]], Any]
    transform: Callable[[Pixels], torch.Tensor]
    preprocess: Preprocess
    precision: Precision
    device: torch.device

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images [n, 3, h, w] to unit vectors [n, d], float32 on the CPU."""
        with torch.no_grad(), self.precision.autocast(self.device.type):
            return _plain(self.model.encode_image(self.pixels(images), normalize=True))

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts to unit vectors [n, d], float32 on the CPU; in chunks, so that n may be large (but not 0)."""
        chunks = [texts[at : at + CHUNK] for at in range(0, len(texts), CHUNK)]
        with torch.no_grad(), self.precision.autocast(self.device.type):
            return torch.cat([_plain(self.model.encode_text(self.tokens(c), normalize=True)) for c in chunks])

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images as the image tower takes them, on the device."""
        mean, std = self.preprocess.mean, self.preprocess.std
        return normalize(images.to(self.device), mean, std, self.precision.image_dtype)

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids of texts, on the device."""
        return torch.as_tensor(self.tokenize(list(texts))).to(self.device)


def encoder_for(
    model: Any, precision: Precision, device: torch.device, preprocess: Preprocess, tokenizer: str | None = None
) -> Encoder:
    """The encoder of one of our models, with the tokenizer and the image size of its configuration.

    Args:
        model: on the device.
        precision: how to run the towers.
        device: where they are.
        preprocess: how to resize and normalise images.
        tokenizer: folder of the tokenizer's files, if not where the configuration says.
    """
    size = model.visual.image_size
    return Encoder(
        model=model,
        tokenize=tokenizer_for(model.config.text, source=tokenizer),
        transform=lambda pixels: eval_transform(pixels, size, preprocess),
        preprocess=preprocess,
        precision=precision,
        device=device,
    )


def _plain(features: torch.Tensor) -> torch.Tensor:
    return features.float().cpu()

"""Images and texts to unit vectors, in inference mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from clip_trainer.data.eval_stream import EvalChunk, EvalStream
from clip_trainer.data.index import Dataset
from clip_trainer.model import CLIP, Precision
from clip_trainer.text import BpeTokenizer
from clip_trainer.train.group import Group
from clip_trainer.vision import Preprocess, UndecodableImage, decode_image, eval_transform, normalize

CHUNK = 128


@dataclass(frozen=True)
class Encoder:
    """The two towers with everything that belongs in front of them."""

    model: CLIP
    precision: Precision
    preprocess: Preprocess
    device: torch.device

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images [n, 3, s, s] to unit vectors [n, d], fp32."""
        pixels = normalize(
            images.to(self.device), self.preprocess.mean, self.preprocess.std, self.precision.image_dtype
        )
        with self.precision.autocast(self.device.type):
            return self.model.encode_image(pixels, normalize=True).float()

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts to unit vectors [n, d], fp32; in chunks, so that n may be large."""
        tokenizer = BpeTokenizer(self.model.config.text.context_length)
        parts = []
        for start in range(0, len(texts), CHUNK):
            tokens = torch.from_numpy(tokenizer(list(texts[start : start + CHUNK]))).to(self.device)
            with self.precision.autocast(self.device.type):
                parts.append(self.model.encode_text(tokens, normalize=True).float())
        return torch.cat(parts)

    def stream(self, dataset: Dataset, group: Group) -> Iterator[EvalChunk]:
        """This rank's share of a data set: samples i with i % world == rank, in order."""
        size = self.model.config.vision.image_hw[0]
        return iter(
            EvalStream(
                dataset,
                decode=decode_image,
                transform=lambda image, _: eval_transform(image, size),
                rank=group.rank,
                world=group.world,
                chunk=CHUNK,
                undecodable=(UndecodableImage,),
            )
        )

"""A model of a few hundred weights in float64, with everything the losses can ask for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_trainer.loss import Features, LossTerms, caption_loss

WORDS, VOCABULARY = 6, 9

Part = tuple[Tensor, Tensor, Tensor]
"""Images [n, 6], texts [n, 5], caption labels [n, WORDS]."""


class Towers(nn.Module):
    """Two linear towers with dropout, a linear caption decoder and a linear teacher; an `Encoder` of the losses.

    Args:
        dropout: of the image tower.
        bias: initial logit bias; None means the model has none.
        tokens: of the whole batch; None means no caption loss.
        taught: whether there is a teacher.
    """

    def __init__(
        self,
        dropout: float = 0.0,
        *,
        bias: float | None = None,
        tokens: int | None = None,
        taught: bool = False,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        wide = torch.float64

        def linear(inputs: int, outputs: int) -> nn.Linear:
            layer = nn.Linear(inputs, outputs, dtype=wide)
            for parameter in layer.parameters():
                with torch.no_grad():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=wide) / 2)
            return layer

        self.image, self.text = linear(6, 4), linear(5, 4)
        self.decoder = linear(6, WORDS * VOCABULARY)
        self.image_teacher, self.text_teacher = linear(6, 3), linear(5, 3)
        self.dropout = nn.Dropout(dropout)
        self.logit_scale = nn.Parameter(torch.tensor(2.0, dtype=wide))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias, dtype=wide))
        self._tokens, self._taught = tokens, taught
        self.calls: list[str] = []

    def features(self, part: Part) -> Features:
        """Both towers."""
        self.calls.append("features")
        image = functional.normalize(self.dropout(self.image(part[0])), dim=-1)
        text = functional.normalize(self.text(part[1]), dim=-1)
        return Features(image, text, self.logit_scale.exp(), self.logit_bias)

    def features_and_terms(self, part: Part) -> tuple[Features, LossTerms]:
        """Both towers, and captions if there are any."""
        features = self.features(part)
        self.calls[-1] = "features_and_terms"
        if self._tokens is None:
            return features, {}
        logits = self.decoder(part[0]).unflatten(1, (WORDS, VOCABULARY))
        return features, {"caption_loss": 2 * caption_loss(logits, part[2], tokens=self._tokens)}

    def teacher(self, part: Part) -> Features | None:
        """The teacher, if there is one."""
        self.calls.append("teacher")
        if not self._taught:
            return None
        image = functional.normalize(self.image_teacher(part[0]), dim=-1)
        text = functional.normalize(self.text_teacher(part[1]), dim=-1)
        return Features(image, text, torch.tensor(11.0, dtype=torch.float64))


def samples(rows: int, seed: int = 1) -> Part:
    """Random images, texts and captions of different lengths (0 is padding)."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in (6, 5))
    labels = torch.randint(1, VOCABULARY, (rows, WORDS), generator=generator)
    lengths = torch.randint(1, WORDS + 1, (rows, 1), generator=generator)
    return image, text, labels * (torch.arange(WORDS) < lengths)


def pieces(rows: int, sizes: list[int], seed: int = 1) -> list[Part]:
    """The same samples in micro-batches."""
    columns = [torch.split(tensor, sizes) for tensor in samples(rows, seed)]
    return [(image, text, labels) for image, text, labels in zip(*columns, strict=True)]

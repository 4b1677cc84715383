"""Zero-shot classification: the class whose prompts are nearest to the image (CLIP paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from clip_trainer.data.loading.batch import Replacement
from clip_trainer.data.loading.eval_stream import EvalChunk
from clip_trainer.eval.classifier import build_zero_shot_classifier
from clip_trainer.eval.encoder import Encoder
from clip_trainer.eval.prompts import Template
from clip_trainer.eval.ranking import gather_rows
from clip_trainer.train.group import Group
from clipctl.contract.errors import CorruptError

_CLASSES_AT_ONCE = 10


class LabelledImages(Protocol):
    """One rank's share of a labelled data set."""

    skipped: list[Replacement]

    def __iter__(self) -> Iterable[EvalChunk]:
        """The images, in chunks."""
        ...


@dataclass
class Classifiers:
    """Builds classifiers, each once: data sets that share classes and templates share the classifier.

    Attributes:
        encoder: whose text tower makes the weights. For other weights, make other `Classifiers`.
        group: the ranks; each encodes its share of the classes.
    """

    encoder: Encoder
    group: Group
    _built: dict[tuple[tuple[str, ...], tuple[str, ...]], torch.Tensor] = field(default_factory=dict)

    def get(self, classes: Sequence[str], templates: Sequence[Template]) -> torch.Tensor:
        """Weights [d, classes] of unit columns, equal on every rank. Collective."""
        key = (tuple(classes), tuple(templates))
        if key not in self._built:
            self._built[key] = self._build(classes, templates)
        return self._built[key]

    def _build(self, classes: Sequence[str], templates: Sequence[Template]) -> torch.Tensor:
        share = -(-len(classes) // self.group.world)
        own = classes[self.group.rank * share : (self.group.rank + 1) * share]
        built: list[torch.Tensor] = []

        def build() -> int:
            if own:
                with self.encoder.precision.autocast(self.encoder.device.type):
                    weights = build_zero_shot_classifier(
                        self.encoder.model,
                        self.encoder.tokens,
                        own,
                        templates,
                        _CLASSES_AT_ONCE,
                        self.encoder.device,
                    )
                built.append(weights.T.float().cpu())
            return int(weights.shape[0]) if own else 0

        width = max(self.group.on_each(build))
        return gather_rows(self.group, built[0] if built else torch.empty(0, width)).T.contiguous()


def zero_shot(encoder: Encoder, group: Group, images: Any, weights: torch.Tensor, name: str) -> dict[str, float | int]:
    """Top-1 and top-5 accuracy over the whole data set. Collective; ranks share the images.

    Args:
        encoder: embeds the images.
        group: the ranks.
        images: this rank's share, iterable in chunks, with a list `skipped` of what could not be decoded.
        weights: from `Classifiers`.
        name: of the data set, for messages.

    Returns:
        `top1`, `top5` (fractions), `images`, and `skipped`, the number of undecodable images left out.

    Raises:
        CorruptError: a sample has no class, or one without a name.
    """
    classes = weights.shape[1]
    hits = torch.zeros(3, dtype=torch.int64)

    def classify() -> None:
        for chunk in images:
            labels = [label for label in chunk.cls if label is not None and 0 <= label < classes]
            if len(labels) < len(chunk.cls):
                raise CorruptError(
                    f"{name} has samples without a class number below {classes}.",
                    hint="Check the class numbers of the data set, and the list of class names.",
                )
            best = (encoder.images(chunk.images) @ weights).topk(min(5, classes), dim=1).indices
            right = best == torch.tensor(labels).unsqueeze(1)
            hits.add_(torch.stack([right[:, :1].sum(), right.sum(), torch.tensor(len(labels))]))

    group.on_each(classify)
    skipped = torch.tensor([len(images.skipped)])
    top1, top5, count, left_out = group.sum(torch.cat([hits, skipped]).to(group.device)).tolist()
    return {"top1": top1 / max(count, 1), "top5": top5 / max(count, 1), "images": count, "skipped": left_out}

"""Zero-shot classification: the class whose prompt embedding is nearest to the image (CLIP paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from clip_trainer.data.index import Dataset
from clip_trainer.eval.encoder import Encoder
from clip_trainer.train.group import Group
from clipctl.contract.errors import CorruptError
from clipctl.contract.sections import ZeroShotSection


def classifier(encoder: Encoder, classes: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
    """Unit vectors [classes, d]: the mean of the embeddings of a class's prompts, normalised again."""
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    embedded = encoder.texts(prompts).view(len(classes), len(templates), -1)
    return torch.nn.functional.normalize(embedded.mean(dim=1), dim=-1)


def zero_shot(encoder: Encoder, group: Group, dataset: Dataset, section: ZeroShotSection) -> dict[str, Any]:
    """Top-1 and top-5 accuracy over the whole data set. Collective; ranks share the images.

    Raises:
        CorruptError: a sample has no class, or one that is not in `classes`.
    """
    weights = classifier(encoder, section.classes, section.templates)
    hits = torch.zeros(3, dtype=torch.int64)  # top 1, top 5, images
    problem = None
    for chunk in encoder.stream(dataset, group):
        labels = [label for label in chunk.cls if label is not None and 0 <= label < len(section.classes)]
        if len(labels) < len(chunk.cls):
            problem = f"{dataset.url} has samples without a class number below {len(section.classes)}."
            break
        scores = encoder.images(chunk.images) @ weights.T
        best = scores.topk(min(5, len(section.classes)), dim=1).indices.cpu()
        right = best == torch.tensor(labels).unsqueeze(1)
        hits += torch.stack([right[:, :1].sum(), right.sum(), torch.tensor(len(labels))])
    for found in group.gather_json(problem):
        if found:
            raise CorruptError(found, hint="Check the `cls` members of the shards and eval.zero_shot.classes.")
    top1, top5, images = group.sum(hits.to(group.device)).tolist()
    return {"top1": top1 / max(images, 1), "top5": top5 / max(images, 1), "images": images}

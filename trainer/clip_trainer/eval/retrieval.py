"""Image-text retrieval metrics, both ways, under OpenCLIP's names.

An image may have several captions: looked up by image, the best of its captions counts; looked up by text, every
caption is a query (the protocol of COCO and Flickr30k).
"""

from __future__ import annotations

import torch

from clip_trainer.eval.ranking import Rows, best_places, gather_rows
from clip_trainer.train.group import Group

RECALLS = (1, 5, 10)


def retrieval_metrics(group: Group, images: Rows, texts: Rows) -> dict[str, float]:
    """Mean and median rank (1 = best) and recall at 1, 5 and 10, both ways. Collective; equal on every rank.

    Args:
        group: the ranks.
        images: the images of this rank, sorted by owner.
        texts: their captions, sorted by owner, at least one for each image.
    """
    to_text = gather_rows(group, best_places(group, images, texts))
    to_image = gather_rows(group, best_places(group, texts, images))
    return summary(to_text, "image_to_text") | summary(to_image, "text_to_image")


def summary(places: torch.Tensor, direction: str) -> dict[str, float]:
    """Metrics of places (0 = best) [n]. As in OpenCLIP the median of an even number is rounded down.

    Without places all are 0.
    """
    count = max(1, places.numel())
    ordered = places.sort().values.double()
    middle = ordered[(places.numel() - 1) // 2 : places.numel() // 2 + 1]
    median = float(middle.mean().floor()) + 1 if places.numel() else 0.0
    mean = float(ordered.mean()) + 1 if places.numel() else 0.0
    recalls = {f"{direction}_R@{k}": float((places < k).sum()) / count for k in RECALLS}
    return {f"{direction}_mean_rank": mean, f"{direction}_median_rank": median, **recalls}


def get_clip_metrics(
    image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: torch.Tensor | float
) -> dict[str, float]:
    """Retrieval metrics of n pairs of unit vectors, with OpenCLIP's signature; in this process alone.

    Args:
        image_features: [n, d].
        text_features: [n, d].
        logit_scale: positive factor of the similarities, which changes no rank.
    """
    order = torch.arange(image_features.shape[0])
    images, texts = (
        Rows(features.detach().float().cpu(), order, order) for features in (image_features, text_features)
    )
    return retrieval_metrics(Group(0, 1, 0, torch.device("cpu")), images, texts)

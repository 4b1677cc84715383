"""Image-text retrieval: in which place does the right partner come, both ways.

No rank ever holds the whole similarity matrix: each takes the rows of its own samples, in chunks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from clip_trainer.data.index import Dataset
from clip_trainer.eval.encoder import CHUNK, Encoder
from clip_trainer.train.group import Group

RECALLS = (1, 5, 10)


def retrieval(encoder: Encoder, group: Group, dataset: Dataset) -> dict[str, Any]:
    """Recall at 1, 5 and 10 and the mean rank, image to text and text to image. Collective.

    A sample with several captions counts by its first one, so that both directions rank the same pairs.
    """
    images, texts = _embed(encoder, group, dataset)
    all_images, all_texts = _gather(group, images), _gather(group, texts)
    first = _first_row(group, images.shape[0])
    forward = _ranks(images, all_texts, first)
    backward = _ranks(texts, all_images, first)
    return _summary(group, forward, "image_to_text") | _summary(group, backward, "text_to_image")


def _embed(encoder: Encoder, group: Group, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    width = encoder.model.config.embed_dim
    images, texts = [torch.empty(0, width, device=encoder.device)], [torch.empty(0, width, device=encoder.device)]
    for chunk in encoder.stream(dataset, group):
        images.append(encoder.images(chunk.images))
        texts.append(encoder.texts([captions[0] for captions in chunk.captions]))
    return torch.cat(images), torch.cat(texts)


def _gather(group: Group, rows: torch.Tensor) -> torch.Tensor:
    """All ranks' rows, rank by rank."""
    if group.world == 1:
        return rows
    counts = group.gather_json(rows.shape[0])
    padded = rows.new_zeros(max(counts), rows.shape[1])
    padded[: rows.shape[0]] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _first_row(group: Group, rows: int) -> int:
    """Where this rank's rows begin in the gathered matrix."""
    return int(sum(group.gather_json(rows)[: group.rank]))


def _ranks(queries: torch.Tensor, candidates: torch.Tensor, first: int) -> torch.Tensor:
    """Place (0 = best) of the right candidate for each query; ties count as places lost by half."""
    places = []
    for start in range(0, queries.shape[0], CHUNK):
        scores = queries[start : start + CHUNK] @ candidates.T
        own = torch.arange(start, start + scores.shape[0], device=scores.device) + first
        right = scores.gather(1, own.unsqueeze(1))
        ties = (scores == right).sum(1) - 1
        places.append((scores > right).sum(1) + ties / 2)
    return torch.cat(places) if places else torch.empty(0)


def _summary(group: Group, places: torch.Tensor, direction: str) -> dict[str, float]:
    counts = [(places < recall).sum() for recall in RECALLS]
    totals = torch.stack([*(c.double() for c in counts), (places + 1).double().sum(), torch.tensor(float(len(places)))])
    *hits, rank_sum, samples = group.sum(totals.double().to(group.device)).tolist()
    summary = {f"{direction}_R@{recall}": hit / max(samples, 1) for recall, hit in zip(RECALLS, hits, strict=True)}
    return summary | {f"{direction}_mean_rank": rank_sum / max(samples, 1)}

"""Which sources a run's samples come from, counted."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from clip_trainer.data.loading.batch import Batch
from clip_trainer.data.order.base import I64
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.train.run import Run
from clipctl.contract import metric_names


def record_sources(run: Run, batch: Batch) -> dict[str, list[int]]:
    """Count the samples of a batch by source: this rank's in its metrics, those of all ranks as fields of the ledger.

    Returns:
        `sources`: one number for each source. Nothing where there is only one source, and on ranks without a ledger.
    """
    if len(run.dataset.parts) == 1:
        return {}
    for part, count in zip(run.dataset.parts, by_source(run.dataset, batch.sample_ids.astype(np.int64)), strict=True):
        run.metrics[metric_names.TRAIN_SOURCE_SAMPLES].labels(part.url).inc(count)
    if not run.group.is_first:
        return {}
    ids = run.order.sample_ids(batch.position_start, batch.position_end - batch.position_start)
    return {"sources": by_source(run.dataset, ids)}


def by_source(samples: JoinedSamples, ids: I64) -> list[int]:
    """How many of these samples each source has."""
    borders = np.array(list(accumulate(samples.samples)), np.int64)
    owners = np.searchsorted(borders, ids, side="right")
    return [int(count) for count in np.bincount(owners, minlength=len(borders))]

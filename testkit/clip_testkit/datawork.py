"""What ranks do in tests of shared data; run by `ranks.run_ranks`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from clip_testkit.rankwork import group_of
from clip_testkit.runyaml import spec_with
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.train.sample_order import order_of
from clip_trainer.train.shared_dataset import share_training_data
from clipctl.contract.errors import ClipError


def first_captions(rank: int, world: int, overrides: Sequence[str], folders: Sequence[str]) -> tuple[str, list[str]]:
    """Open a run's data in a folder of the rank's own and read the rank's part of the first batch.

    Returns:
        The identity and the captions; or the type and the words of an error.
    """
    os.chdir(folders[rank])
    spec = spec_with(*overrides)
    try:
        samples = share_training_data(spec, group_of(rank, world))
    except ClipError as error:
        return type(error).__name__, [error.problem]
    reader = samples.open_reader(ReadHints())
    refs = order_of(spec, samples).local_batch(0, spec.train.global_batch, rank, world)
    return samples.identity, [reader.read(ref.shard, ref.index_in_shard).captions()[0] for ref in refs]

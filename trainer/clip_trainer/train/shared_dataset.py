"""One data set for all ranks: opened once, and described to the others."""

from __future__ import annotations

from clip_trainer.data.sample_set import SampleSet
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.data.samples.opening import Opener, describe, opener_of
from clip_trainer.train.build import image_size_of
from clip_trainer.train.group import Group
from clipctl.contract.sections import ColumnsSection, SourceSection
from clipctl.contract.sections.sources import SEPARATOR
from clipctl.contract.spec import RunSpec


def share_training_data(spec: RunSpec, group: Group) -> JoinedSamples:
    """Open the sources of a run on every rank, see `share_dataset`. Collective."""
    opener = opener_of(spec.data, lambda: image_size_of(spec.model))
    return JoinedSamples([share_dataset(source, opener, group) for source in spec.data.sources])


def share_evaluation_data(url: str, columns: ColumnsSection | None, group: Group) -> JoinedSamples:
    """Open held-out data on every rank, several sources as `a::b`. Collective."""
    opener = Opener(columns or ColumnsSection())
    return JoinedSamples([share_dataset(SourceSection(url=part), opener, group) for part in url.split(SEPARATOR)])


def share_dataset(source: SourceSection, opener: Opener, group: Group) -> SampleSet:
    """Open a source on rank 0 (which checks it and builds a missing index), then on the others. Collective.

    Raises:
        ClipError: on every rank, if one of them cannot open it or finds something else there.
    """
    opened: list[SampleSet] = []

    def first() -> object:
        opened.append(opener.open(source))
        return describe(opened[0])

    description = group.on_first(first)

    def every() -> None:
        if not opened:
            opened.append(opener.attach(source, description))

    group.on_each(every)
    return opened[0]

"""From what run.yaml says about data to samples: the only place that knows all kinds of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clip_trainer.data.index.dataset import Dataset, open_dataset
from clip_trainer.data.sample_set import SampleSet
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.data.samples.synthetic import SyntheticSamples
from clip_trainer.data.samples.table import TableSamples
from clip_trainer.data.storage.block_store import BlockStore
from clip_trainer.data.storage.location import ALLOW_PIPE
from clip_trainer.data.storage.source_cached import CachedSource
from clipctl.contract.errors import CorruptError
from clipctl.contract.sections import ColumnsSection, DataSection, SourceSection, quantity_bytes
from clipctl.contract.sections.sources import SYNTHETIC, is_synthetic, is_table

Description = dict[str, Any]
"""What other ranks need to open the same samples as the rank that described them; plain JSON."""


@dataclass(frozen=True)
class Opener:
    """How sources are opened.

    Attributes:
        columns: of tables.
        cache: for blocks of remote shards.
        image_size: height and width of the model's images; asked only if synthetic samples are opened.
    """

    columns: ColumnsSection = field(default_factory=ColumnsSection)
    cache: BlockStore | None = None
    image_size: Callable[[], tuple[int, int]] = lambda: (224, 224)

    def open(self, source: SourceSection) -> SampleSet:
        """Open a source; a missing index is built.

        Raises:
            ClipError: it does not exist, cannot be read, or is damaged.
        """
        if is_synthetic(source.url):
            return SyntheticSamples(int(source.url.removeprefix(SYNTHETIC)), self.image_size())
        if is_table(source.url):
            return TableSamples(source.url, self.columns)
        return self._cached(open_dataset(source.url, name=source.index))

    def attach(self, source: SourceSection, description: Description) -> SampleSet:
        """Open a source as another rank has described it.

        Raises:
            CorruptError: this rank finds something else there.
            ClipError: it cannot be read.
        """
        samples = self._attached(source, description)
        if samples.identity != description["identity"]:
            raise CorruptError(
                f"{source.url} is not the same data on every worker.",
                hint="Give all workers the same files, or a URL.",
            )
        return samples

    def _attached(self, source: SourceSection, description: Description) -> SampleSet:
        if "index" in description:
            return self._cached(Dataset.attach(source.url, description["index"].encode()))
        if "image_size" in description:
            height, width = description["image_size"]
            return SyntheticSamples(int(source.url.removeprefix(SYNTHETIC)), (height, width))
        return TableSamples(source.url, self.columns)

    def _cached(self, dataset: Dataset) -> Dataset:
        if self.cache is None or not dataset.remote:
            return dataset
        return replace(dataset, source=CachedSource(dataset.source, self.cache))


def opener_of(data: DataSection, image_size: Callable[[], tuple[int, int]] = lambda: (224, 224)) -> Opener:
    """How the sources of a run are opened.

    Raises:
        CannotCreateError: the directory of the cache cannot be used.
    """
    if data.allow_pipe:
        os.environ[ALLOW_PIPE] = "1"  # of this process alone; `parse_location` asks for it
    cache = None
    if data.cache is not None:
        cache = BlockStore(Path(data.cache.path).expanduser(), quantity_bytes(data.cache.size))
    return Opener(data.columns or ColumnsSection(), cache, image_size)


def describe(samples: SampleSet) -> Description:
    """See `Description`."""
    description: Description = {"identity": samples.identity}
    if isinstance(samples, Dataset):
        description["index"] = samples.payload().decode()
    elif isinstance(samples, SyntheticSamples):
        description["image_size"] = list(samples.image_size)
    return description


def open_training_data(data: DataSection) -> JoinedSamples:
    """All sources of a run, opened in this process alone. Raises what `Opener.open` raises."""
    opener = opener_of(data)
    return JoinedSamples([opener.open(source) for source in data.sources])

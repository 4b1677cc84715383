"""From what run.yaml says about data to samples: the only place that knows all kinds of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clip_trainer.data.index import Dataset, open_dataset
from clip_trainer.data.joined import JoinedSamples
from clip_trainer.data.samples import SampleSet
from clip_trainer.data.synthetic import SyntheticSamples
from clip_trainer.data.table import TableSamples
from clipctl.contract.errors import CorruptError
from clipctl.contract.sections import ColumnsSection, DataSection, SourceSection
from clipctl.contract.sections.sources import SYNTHETIC, is_synthetic, is_table

Description = dict[str, Any]
"""What other ranks need to open the same samples as the rank that described them; plain JSON."""


@dataclass(frozen=True)
class Opener:
    """How sources are opened.

    Attributes:
        columns: of tables.
        image_size: height and width of the model's images; asked only if synthetic samples are opened.
    """

    columns: ColumnsSection = field(default_factory=ColumnsSection)
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
        return open_dataset(source.url)

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
            return Dataset.attach(source.url, description["index"].encode())
        if "image_size" in description:
            height, width = description["image_size"]
            return SyntheticSamples(int(source.url.removeprefix(SYNTHETIC)), (height, width))
        return TableSamples(source.url, self.columns)


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
    opener = Opener(data.columns or ColumnsSection())
    return JoinedSamples([opener.open(source) for source in data.sources])

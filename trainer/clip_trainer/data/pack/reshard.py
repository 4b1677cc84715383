"""Writing shards anew: `clipctl data reshard`.

Other sizes of shards, another order, smaller images: every sample of a dataset is written exactly once, with its key
and all its members, also those that training never looks at. A key that its new shard holds already (several of the
old shards counted from zero) gets the name of its old shard in front, as a directory.
"""

from __future__ import annotations

import io
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from clip_trainer.data.index.dataset import Dataset, open_dataset
from clip_trainer.data.index.format import sample_check
from clip_trainer.data.pack.pack import CLASSES_NAME
from clip_trainer.data.progress import Progress
from clip_trainer.data.shards.grouping import IMAGE_SUFFIXES, split_name
from clip_trainer.data.shards.tar import TarReader
from clip_trainer.data.storage.location import parse_location
from clip_trainer.data.writing.image import stored_image
from clip_trainer.data.writing.image_resize import Resize, prepare_pillow
from clip_trainer.data.writing.shard_order import shuffled
from clip_trainer.data.writing.shard_producer import NewSample, Outcome, Unpackable
from clip_trainer.data.writing.shard_set import WriteSummary, write_set
from clip_trainer.data.writing.shard_writer import WriteOptions
from clipctl.contract.errors import CorruptError, MissingError, SpecError


def reshard(
    data: str,
    out: str,
    options: WriteOptions | None = None,
    *,
    index: str | None = None,
    seed: int | None = None,
    resize: Resize | None = None,
    progress: Progress | None = None,
) -> WriteSummary:
    """Write the samples of a dataset into new shards, with an index.

    Args:
        data: location of the dataset; a missing index is built first.
        out: directory or URL of the new shards. A reshard that was interrupted goes on where it was.
        options: how to cut the shards, by how many threads.
        index: which index of the dataset, if not the main one; only the samples it lists are written.
        seed: of a shuffle of all samples; None keeps their order.
        resize: how to make images smaller; None stores all as they are.
        progress: told how many samples are done.

    Raises:
        SpecError: `out` is `data`, or not a directory location.
        MissingError: there is no such dataset.
        CorruptError: a shard is damaged, or an image that is to be made smaller is none.
        CannotCreateError: `out` holds other shards already, or cannot be written.
    """
    if resize is not None:
        prepare_pillow()
    dataset = open_dataset(data, name=index, progress=progress)
    if dataset.source.base == parse_location(out).base:
        raise SpecError(f"{out} is the dataset itself.", hint="Write the new shards to another directory.")
    producer = _Resharding(dataset, seed, resize)
    return write_set(producer, out, options or WriteOptions(), beside=_class_names(dataset), progress=progress)


def _class_names(dataset: Dataset) -> dict[str, bytes]:
    try:
        return {CLASSES_NAME: dataset.source.load(CLASSES_NAME)}
    except MissingError:
        return {}


class _Run(NamedTuple):
    """Samples that follow each other in a shard, to be read in one go."""

    shard: int
    first: int
    last: int


class _Resharding:
    """Makes new samples of old ones; implements `shard_producer.Producer`."""

    stage = "reshard"

    def __init__(self, dataset: Dataset, seed: int | None, resize: Resize | None) -> None:
        self._dataset, self._resize = dataset, resize
        self._ends = array("Q", accumulate(dataset.index.counts))
        self._order = None if seed is None else shuffled(self._ends[-1], seed)
        self.options: Mapping[str, Any] = {
            "input": dataset.index.identity,
            "samples": self._ends[-1],
            "seed": seed,
            "resize": resize and resize.options(),
        }

    def __len__(self) -> int:
        return self._ends[-1]

    def produce(self, positions: range) -> list[Outcome]:
        """The samples at these positions."""
        numbers = list(positions) if self._order is None else [self._order[position] for position in positions]
        return [outcome for run in self._runs(numbers) for outcome in self._read(run)]

    def _runs(self, numbers: list[int]) -> Iterator[_Run]:
        """The numbers as places, neighbours together."""
        run: _Run | None = None
        for number in numbers:
            shard = bisect_right(self._ends, number)
            index = number - (self._ends[shard - 1] if shard else 0)
            if run is not None and (shard, index) == (run.shard, run.last + 1):
                run = run._replace(last=index)
                continue
            if run is not None:
                yield run
            run = _Run(shard, index, index)
        if run is not None:
            yield run

    def _read(self, run: _Run) -> Iterator[Outcome]:
        info = self._dataset.index.shards[run.shard]
        start = info.sample_range(run.first)[0]
        end = sum(info.sample_range(run.last))
        data = self._dataset.source.read(info.url, start, end - start, etag=info.etag)
        for index in range(run.first, run.last + 1):
            offset, length = info.sample_range(index)
            sample = data[offset - start : offset - start + length]
            where = f"{self._dataset.source.base}/{info.url}, sample {index}"
            if sample_check(sample) != info.check_values[index]:
                raise CorruptError(f"{where} differs from the index.", hint="Run `clipctl data verify --deep`.")
            yield self._sample(sample, info.url.removesuffix(".tar"), where)

    def _sample(self, data: bytes, origin: str, where: str) -> Outcome:
        key, members = _members(data, where)
        if self._resize is not None:
            try:
                members = _with_smaller_image(members, self._resize, f"{where} ({key})")
            except Unpackable as problem:
                return problem
        return NewSample(key, origin, tuple(members))


def _members(data: bytes, where: str) -> tuple[str, list[tuple[str, bytes]]]:
    """Key and members of a sample; their suffixes are spelled as they are."""
    found: list[tuple[str, bytes]] = []
    key = ""
    for member in TarReader(io.BytesIO(data).read, where, wanted=lambda name: True, fragment=True):
        name = split_name(member.name)
        if name is not None and member.data is not None:
            key = name.key
            found.append((member.name[len(key) + 1 :], member.data))
    return key, found


def _with_smaller_image(members: list[tuple[str, bytes]], resize: Resize, where: str) -> list[tuple[str, bytes]]:
    """The members with the image that training sees made smaller. A sample without an image stays as it is."""
    by_suffix = {suffix.lower(): place for place, (suffix, _) in enumerate(members)}
    place = next((by_suffix[suffix] for suffix in IMAGE_SUFFIXES if suffix in by_suffix), None)
    if place is None:
        return members
    suffix, data = members[place]
    image = stored_image(data, suffix.lower(), resize, where)
    if image.data is data:
        return members
    others = [member for number, member in enumerate(members) if number != place and member[0].lower() != "jpg"]
    return [(image.suffix, image.data), *others]

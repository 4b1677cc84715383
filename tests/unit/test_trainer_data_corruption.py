"""Nothing that happens to a shard's bytes goes unnoticed: the index catches every cut and every flip."""

import random

import pytest

from clip_testkit.shards import sample_members, tar_bytes
from clip_trainer.data.index import Dataset, open_dataset
from clip_trainer.data.index_format import ShardIndex
from clip_trainer.data.samples import ReadHints
from clip_trainer.data.source import ObjectInfo, SourceCounters
from clip_trainer.data.verify import verify_dataset
from clipctl.contract.errors import ClipError, CorruptError

FLIPS = 4000
SAMPLES = 6
MEMBERS = [member for n in range(SAMPLES) for member in sample_members(n, captions=["a", "b"], cls=1)]
CONTENT = tar_bytes(MEMBERS)


class Memory:
    """One shard in memory."""

    base, remote = "memory", False

    def __init__(self, content):
        self.content = content
        self.counters = SourceCounters()

    def info(self, name):
        return ObjectInfo(name, len(self.content), None)

    def info_many(self, names):
        return {name: self.info(name) for name in names}

    def read(self, name, offset, length):
        data = self.content[offset : offset + length]
        if len(data) < length:
            raise CorruptError("short")
        return bytes(data)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    directory = tmp_path_factory.mktemp("d")
    (directory / "s.tar").write_bytes(CONTENT)
    return open_dataset(str(directory)).index


def read_all(content, index):
    reader = Dataset("memory", Memory(content), index).open_reader(ReadHints())
    return [reader.read(0, number) for number in range(SAMPLES)]


def test_the_undamaged_shard_reads(index):
    assert [sample.key for sample in read_all(CONTENT, index)] == [f"{n:06d}" for n in range(SAMPLES)]


def end_of_samples(index):
    offset, length = index.shards[0].sample_range(SAMPLES - 1)
    return offset + length


def test_every_flip_within_a_sample_is_noticed_when_that_sample_is_read(index):
    draw = random.Random(1)
    end = end_of_samples(index)
    for _ in range(FLIPS):
        damaged = bytearray(CONTENT)
        damaged[draw.randrange(end)] ^= 1 << draw.randrange(8)
        with pytest.raises(CorruptError, match=r"Sample \d+ of shard memory/s\.tar"):
            read_all(damaged, index)


def test_every_cut_is_noticed_when_the_cut_samples_are_read(index):
    for cut in range(0, end_of_samples(index), 64):
        with pytest.raises(CorruptError):
            read_all(CONTENT[:cut], index)


@pytest.mark.parametrize("seed", range(30))
def test_verify_finds_a_flip_anywhere_even_in_the_padding(tmp_path, seed):
    draw = random.Random(seed)
    (tmp_path / "s.tar").write_bytes(CONTENT)
    open_dataset(str(tmp_path))
    damaged = bytearray(CONTENT)
    damaged[draw.randrange(len(CONTENT))] ^= 1 << draw.randrange(8)
    (tmp_path / "s.tar").write_bytes(damaged)
    report = verify_dataset(str(tmp_path), deep=True)
    assert [problem.shard for problem in report.problems] == ["s.tar"]


@pytest.mark.parametrize("seed", range(40))
def test_a_flip_in_the_index_is_noticed(index, seed):
    payload = bytearray(index.to_json())
    draw = random.Random(seed)
    payload[draw.randrange(len(payload) - 1)] ^= 1 << draw.randrange(8)
    with pytest.raises(ClipError):
        ShardIndex.from_json(bytes(payload))


def test_samples_that_changed_places_are_noticed(index):
    """Each sample is whole and right in itself, only not the one whose turn it is."""
    first, second = (index.shards[0].sample_range(number) for number in (0, 1))
    assert first[1] == second[1]
    start, middle, end = first[0], second[0], second[0] + second[1]
    swapped = CONTENT[:start] + CONTENT[middle:end] + CONTENT[start:middle] + CONTENT[end:]
    with pytest.raises(CorruptError, match="Sample 0"):
        read_all(swapped, index)

"""Nothing that happens to a shard's bytes goes unnoticed: the index catches every cut and every flip."""

import random

import pytest

from clip_testkit.shards import sample_members, tar_bytes
from clip_trainer.data.index import store as index_store
from clip_trainer.data.index.dataset import Dataset, open_dataset
from clip_trainer.data.index.scan import scan_shard
from clip_trainer.data.index.store import load_index, place_beside
from clip_trainer.data.index.verify import verify_dataset
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.storage.source import ObjectInfo, SourceCounters
from clip_trainer.data.storage.source_local import LocalSource
from clipctl.contract.errors import CorruptError

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

    def read(self, name, offset, length, *, etag=None):
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


def refuse_flips(index, count, seed):
    """Flip one bit of a sample after the other, and read every sample each time."""
    draw = random.Random(seed)
    end = end_of_samples(index)
    damaged = bytearray(CONTENT)
    reader = Dataset("memory", Memory(damaged), index).open_reader(ReadHints())
    samples = [index.shards[0].sample_range(number) for number in range(SAMPLES)]
    for _ in range(count):
        at, bit = draw.randrange(end), 1 << draw.randrange(8)
        (hit,) = [number for number, (offset, length) in enumerate(samples) if offset <= at < offset + length]
        damaged[at] ^= bit
        with pytest.raises(CorruptError, match=rf"Sample {hit} of shard memory/s\.tar"):
            reader.read(0, hit)
        damaged[at] ^= bit
    assert bytes(damaged) == CONTENT
    assert [reader.read(0, number).key for number in range(SAMPLES)] == [f"{n:06d}" for n in range(SAMPLES)]


def test_a_hundred_thousand_flips_are_noticed_when_the_sample_is_read(index):
    refuse_flips(index, 100_000, seed=1)


def test_every_cut_is_noticed_when_the_cut_samples_are_read(index):
    for cut in range(0, end_of_samples(index), 64):
        with pytest.raises(CorruptError):
            read_all(CONTENT[:cut], index)


def cut_everywhere(step):
    """Index the shard cut off at every step-th byte before its end-of-archive marker is whole."""
    whole = len(CONTENT.rstrip(b"\0"))
    whole += -whole % 512 + 2 * 512
    for cut in range(0, whole, step):
        memory = Memory(CONTENT[:cut])
        with pytest.raises(CorruptError):
            scan_shard(memory, memory.info("s.tar"))
    assert scan_shard(Memory(CONTENT[:whole]), ObjectInfo("s.tar", whole, None)).entry.samples == SAMPLES


def test_a_cut_shard_is_never_indexed():
    cut_everywhere(step=37)


@pytest.mark.long
def test_a_shard_cut_at_any_byte_is_never_indexed():
    cut_everywhere(step=1)


def test_flips_never_change_what_is_indexed_unnoticed(index):
    """Indexing a damaged shard fails, or finds the same samples with another digest: none vanishes quietly."""
    draw = random.Random(7)
    names = scan_shard(Memory(CONTENT), ObjectInfo("s.tar", len(CONTENT), None)).entry
    for _ in range(1000):
        damaged = bytearray(CONTENT)
        damaged[draw.randrange(len(CONTENT))] ^= 1 << draw.randrange(8)
        try:
            found = scan_shard(Memory(bytes(damaged)), ObjectInfo("s.tar", len(CONTENT), None)).entry
        except CorruptError:
            continue
        assert (found.samples, found.images, found.captions, found.classes) == (SAMPLES,) * 4
        assert found.xxh3 != names.xxh3


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


@pytest.fixture
def stored(tmp_path):
    """The files of an index, and a way to read everything in what lies there instead."""
    (tmp_path / "s.tar").write_bytes(CONTENT)
    index = open_dataset(str(tmp_path)).index
    header, table = tmp_path / "index.json", tmp_path / index.header.table.name

    def read():
        found = load_index(place_beside(LocalSource(str(tmp_path))))
        found.block(0)
        return found

    assert read() == index
    return header, table, read


@pytest.mark.parametrize("which", ["header", "table"])
@pytest.mark.parametrize("whole", [True, False], ids=["small", "large"])
def test_every_flip_in_the_index_is_noticed(stored, which, whole, monkeypatch):
    """However large the table is, so whether it is read in one piece or in parts."""
    monkeypatch.setattr(index_store, "_READ_WHOLE", 1 << 20 if whole else 0)
    header, table, read = stored
    path = header if which == "header" else table
    payload = path.read_bytes()
    draw = random.Random(3)
    for at in range(len(payload)):
        damaged = bytearray(payload)
        damaged[at] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match=r"index"):
            read()
    path.write_bytes(payload)
    read()


@pytest.mark.parametrize("which", ["header", "table"])
@pytest.mark.parametrize("whole", [True, False], ids=["small", "large"])
def test_every_cut_of_the_index_is_noticed(stored, which, whole, monkeypatch):
    monkeypatch.setattr(index_store, "_READ_WHOLE", 1 << 20 if whole else 0)
    header, table, read = stored
    path = header if which == "header" else table
    payload = path.read_bytes()
    for damaged in [*(payload[:cut] for cut in range(len(payload))), payload + b"\n", payload + payload]:
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match=r"index"):
            read()


def test_a_table_that_is_gone_is_named(stored):
    _, table, read = stored
    table.unlink()
    with pytest.raises(CorruptError, match=rf"belongs to a table, {table.name}, that is missing"):
        read()


def test_a_header_of_another_data_set_is_noticed(stored, tmp_path):
    """Two pairs that are right in themselves, mixed up."""
    header, table, read = stored
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "s.tar").write_bytes(tar_bytes(MEMBERS[:8]))
    other = open_dataset(str(tmp_path / "other")).index
    mine = header.read_bytes()
    header.write_bytes((tmp_path / "other" / "index.json").read_bytes())
    with pytest.raises(CorruptError, match="that is missing"):
        read()
    header.write_bytes(mine)
    table.write_bytes((tmp_path / "other" / other.header.table.name).read_bytes())
    with pytest.raises(CorruptError, match="its header says"):
        read()


def test_samples_that_changed_places_are_noticed(index):
    """Each sample is whole and right in itself, only not the one whose turn it is."""
    first, second = (index.shards[0].sample_range(number) for number in (0, 1))
    assert first[1] == second[1]
    start, middle, end = first[0], second[0], second[0] + second[1]
    swapped = CONTENT[:start] + CONTENT[middle:end] + CONTENT[start:middle] + CONTENT[end:]
    with pytest.raises(CorruptError, match="Sample 0"):
        read_all(swapped, index)

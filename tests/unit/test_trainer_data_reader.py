"""Single samples: verified, cached where that pays, fetched once."""

import threading

import pytest

from clip_testkit.shards import write_dataset
from clip_trainer.data.index import reader as reader_module
from clip_trainer.data.index.dataset import Dataset, open_dataset
from clip_trainer.data.index.reader import BlockCache
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.storage.source_local import LocalSource
from clipctl.contract.errors import CorruptError, MissingError, UnavailableError


class Remote(LocalSource):
    """A directory that claims to be far away, and can be told to misbehave."""

    remote = True

    def __init__(self, base):
        super().__init__(base)
        self.flips = 0
        self.reads = []

    def read(self, name, offset, length, *, etag=None):
        data = super().read(name, offset, length, etag=etag)
        self.reads.append((name, offset, length))
        if self.flips:
            self.flips -= 1
            return bytes(byte ^ 0xFF for byte in data)
        return data


@pytest.fixture
def remote(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "BLOCK_BYTES", 4096)
    write_dataset(tmp_path, [10, 10])
    source = Remote(str(tmp_path))
    opened = open_dataset(str(tmp_path), source=source)
    source.reads.clear()
    return opened


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_every_sample_is_itself(remote, cache_bytes):
    reader = remote.open_reader(ReadHints(cache_bytes=cache_bytes))
    assert reader.by_block == bool(cache_bytes)
    keys = [reader.read(shard, index).key for shard in (0, 1) for index in range(10)]
    assert keys == [f"{number:06d}" for number in range(20)]


def test_local_files_are_read_directly(tmp_path):
    write_dataset(tmp_path, [3])
    reader = open_dataset(str(tmp_path)).open_reader(ReadHints())
    assert not reader.by_block
    assert reader.read(0, 2).captions() == ("picture 2",)


def test_blocks_are_fetched_once(remote):
    reader = remote.open_reader(ReadHints())
    for _ in range(3):
        for index in range(10):
            reader.read(0, index)
    assert len(remote.source.reads) == len(set(remote.source.reads))
    assert reader.cache.misses == len(remote.source.reads)
    assert reader.cache.hits > 20


def test_a_cache_that_would_thrash_is_not_used(remote):
    small = remote.open_reader(ReadHints(cache_bytes=10_000, open_windows=2, window_samples=10))
    assert not small.by_block
    small.read(0, 3)
    offset, length = remote.index.shards[0].sample_range(3)
    assert remote.source.reads == [("shard-000000.tar", offset, length)]


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_damage_on_the_way_is_mended_by_reading_again(remote, cache_bytes):
    reader = remote.open_reader(ReadHints(cache_bytes=cache_bytes))
    remote.source.flips = 1
    assert reader.read(0, 4).key == "000004"
    assert reader.read(0, 4).key == "000004", "the damaged block is not kept"


def test_damage_in_the_store_is_named(remote):
    remote.source.flips = 1000
    with pytest.raises(CorruptError, match=r"Sample 4 of shard .*shard-000000\.tar"):
        remote.open_reader(ReadHints()).read(0, 4)


def test_a_replaced_shard_is_noticed_though_its_size_is_the_same(tmp_path):
    write_dataset(tmp_path, [3])
    opened = open_dataset(str(tmp_path))
    content = (tmp_path / "shard-000000.tar").read_bytes()
    (tmp_path / "shard-000000.tar").write_bytes(content.replace(b"picture 1", b"picture 7"))
    same = open_dataset(str(tmp_path))
    assert same.index == opened.index
    with pytest.raises(CorruptError, match="differs from the index"):
        same.open_reader(ReadHints()).read(0, 1)


def test_the_cache_keeps_its_budget():
    cache = BlockCache(100)
    for block in range(10):
        cache.get((0, block), lambda: bytes(40))
    fetched = []
    cache.get((0, 9), lambda: fetched.append(9) or bytes(40))
    cache.get((0, 8), lambda: fetched.append(8) or bytes(40))
    cache.get((0, 7), lambda: fetched.append(7) or bytes(40))
    assert fetched == [7]


def test_least_recently_used_goes_first():
    cache = BlockCache(100)
    fetched = []
    for block in (0, 1, 0, 2, 0, 1):
        cache.get((0, block), lambda block=block: fetched.append(block) or bytes(40))
    assert fetched == [0, 1, 2, 1]


def test_failures_are_not_kept():
    cache = BlockCache(100)

    def fail():
        raise UnavailableError("no answer")

    with pytest.raises(UnavailableError):
        cache.get((0, 0), fail)
    assert cache.get((0, 0), lambda: b"ok") == b"ok"
    cache.drop((0, 0))
    cache.drop((0, 0))
    assert cache.get((0, 0), lambda: b"new") == b"new"


def test_two_threads_fetch_a_block_once_and_share_its_failure():
    cache = BlockCache(100)
    entered, leave = threading.Event(), threading.Event()
    results = []

    def slow():
        entered.set()
        leave.wait(60)
        raise MissingError("gone")

    def ask(fetch):
        try:
            results.append(cache.get((0, 0), fetch))
        except MissingError as error:
            results.append(error.problem)

    first = threading.Thread(target=ask, args=(slow,))
    first.start()
    assert entered.wait(60)
    second = threading.Thread(target=ask, args=(lambda: pytest.fail("fetched twice"),))
    second.start()
    while cache.hits == 0 and second.is_alive():
        second.join(0.001)
    leave.set()
    first.join()
    second.join()
    assert results == ["gone", "gone"]


def test_attach_reads_the_same(remote, tmp_path):
    attached = Dataset.attach(str(tmp_path), remote.payload())
    assert attached.open_reader(ReadHints()).read(1, 9).key == "000019"

"""A disk cache before a source: the same bytes, fetched once."""

import threading

import pytest

from clip_trainer.data.storage.block_store import BlockStore
from clip_trainer.data.storage.source import ObjectInfo, SourceCounters
from clip_trainer.data.storage.source_cached import CachedSource
from clipctl.contract.errors import CorruptError, UnavailableError

CONTENT = bytes(range(256)) * 5  # 1280 bytes: 12 blocks of 100 and one of 80


class Far:
    """A source far away that notes what is read."""

    base, remote = "s3://b/d", True

    def __init__(self, content=CONTENT, etag="v1"):
        self.content, self.etag = content, etag
        self.counters = SourceCounters()
        self.asked = []
        self.infos = 0
        self.saved = {}

    def info(self, name):
        self.infos += 1
        return ObjectInfo(name, len(self.content), self.etag)

    def info_many(self, names):
        return {name: self.info(name) for name in names}

    def list_shards(self):
        return ("a.tar",)

    def load(self, name):
        return self.content

    def save(self, name, data):
        self.saved[name] = data

    def read(self, name, offset, length, *, etag=None):
        self.asked.append((name, offset, length, etag))
        return self.content[offset : offset + length]


@pytest.fixture
def far():
    return Far()


def cached(far, tmp_path, limit=1 << 20):
    return CachedSource(far, BlockStore(tmp_path, limit), block_bytes=100)


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 1280), (99, 2), (100, 100), (1279, 1), (250, 700)])
def test_ranges_are_put_together_from_blocks(far, tmp_path, offset, length):
    near = cached(far, tmp_path)
    for _ in range(2):
        assert near.read("a.tar", offset, length, etag="v1") == CONTENT[offset : offset + length]
    blocks = (offset + length - 1) // 100 - offset // 100 + 1
    assert len(far.asked) == blocks
    assert (near.counters.cache_hits, near.counters.cache_misses) == (blocks, blocks)
    assert far.infos == 1


def test_another_process_finds_the_blocks(far, tmp_path):
    cached(far, tmp_path).read("a.tar", 0, 1280, etag="v1")
    later = Far()
    assert cached(later, tmp_path).read("a.tar", 0, 1280, etag="v1") == CONTENT
    assert not later.asked
    assert not later.infos, "not even the size is asked for"


def test_blocks_belong_to_a_version(far, tmp_path):
    cached(far, tmp_path).read("a.tar", 0, 1280, etag="v1")
    new = Far(CONTENT[::-1], "v2")
    near = cached(new, tmp_path)
    assert near.read("a.tar", 0, 1280, etag="v2") == CONTENT[::-1]
    with pytest.raises(CorruptError, match="changed"):
        near.read("b.tar", 0, 10, etag="v1")


def test_what_is_beyond_the_end_is_corrupt(far, tmp_path):
    for offset, length in ((1275, 10), (1280, 1), (5000, 1)):
        with pytest.raises(CorruptError, match="shorter"):
            cached(far, tmp_path).read("a.tar", offset, length, etag="v1")


def test_reads_without_a_version_go_past_the_cache(far, tmp_path):
    near = cached(far, tmp_path)
    assert near.read("a.tar", 5, 10) == CONTENT[5:15]
    assert near.read("a.tar", 5, 0, etag="v1") == b""
    assert (near.counters.cache_hits, near.counters.cache_misses) == (0, 0)


def test_a_reader_that_was_given_wrong_bytes_gets_others(far, tmp_path):
    near = cached(far, tmp_path)
    far.content = bytes(1280)  # damaged on the way here
    assert near.read("a.tar", 150, 100, etag="v1") == bytes(100)
    far.content = CONTENT
    assert near.read("a.tar", 150, 100, etag="v1") == bytes(100), "the cache cannot know"
    assert near.read("a.tar", 150, 100) == CONTENT[150:250]
    assert near.read("a.tar", 150, 100, etag="v1") == CONTENT[150:250], "it does now"


def test_failures_are_not_cached(far, tmp_path):
    near = cached(far, tmp_path)
    good, far.read = far.read, lambda *args, **options: (_ for _ in ()).throw(UnavailableError("gone"))
    with pytest.raises(UnavailableError):
        near.read("a.tar", 0, 10, etag="v1")
    far.read = good
    assert near.read("a.tar", 0, 10, etag="v1") == CONTENT[:10]


def test_threads_fetch_a_block_once(far, tmp_path):
    near, barrier, found = cached(far, tmp_path), threading.Barrier(8), []

    def work():
        barrier.wait(60)
        found.append(near.read("a.tar", 310, 50, etag="v1"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT[310:360]] * 8
    assert far.asked == [("a.tar", 300, 100, "v1")]


def test_a_cache_without_room_is_only_slow(far, tmp_path):
    near = cached(far, tmp_path, limit=50)
    for _ in range(2):
        assert near.read("a.tar", 0, 1280, etag="v1") == CONTENT


def test_everything_else_is_the_source(far, tmp_path):
    near = cached(far, tmp_path)
    assert (near.base, near.remote) == (far.base, True)
    assert near.info("a.tar") == far.info("a.tar")
    assert set(near.info_many(["a.tar"])) == {"a.tar"}
    assert near.list_shards() == ("a.tar",)
    assert near.load("a.tar") == CONTENT
    near.save("x", b"y")
    assert far.saved == {"x": b"y"}

"""Sources through fsspec, on its memory filesystem."""

import fsspec
import pytest

from clip_trainer.data.storage import source_fsspec
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.source import ObjectInfo
from clip_trainer.data.storage.source_fsspec import FsspecSource, knows_scheme
from clipctl.contract.errors import CorruptError, MissingError, SpecError, UnavailableError

CONTENT = bytes(range(256))


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    source = FsspecSource("memory://d", retry=RetryPolicy(attempts=3, sleep=lambda seconds: None))
    source.save("a.tar", CONTENT)
    yield source
    files.store.clear()


def test_objects_in_memory(memory):
    memory.save("sub/b.tar", b"b")
    memory.save("index.json", b"{}")
    assert memory.info("a.tar") == ObjectInfo("a.tar", 256, None)
    assert memory.read("a.tar", 10, 5) == CONTENT[10:15]
    assert memory.read("a.tar", 10, 0) == b""
    assert memory.load("index.json") == b"{}"
    assert memory.list_shards() == ("a.tar",)
    assert set(memory.info_many(["a.tar", "none.tar"])) == {"a.tar"}
    assert set(memory.info_many(["sub/b.tar", "none.tar"])) == {"sub/b.tar"}
    assert memory.counters.bytes_read == 5


def test_missing_and_short_objects(memory):
    with pytest.raises(MissingError):
        memory.load("none")
    memory.save("sub/b.tar", b"b")
    with pytest.raises(MissingError, match="directory"):
        memory.info("sub")
    with pytest.raises(CorruptError, match="shorter"):
        memory.read("a.tar", 250, 10)


class Files:
    """A client with etags that sometimes gives too little."""

    def __init__(self):
        self.etag, self.asked, self.short, self.failures = "v1", 0, 0, 0

    def info(self, url):
        self.asked += 1
        return {"size": 256, "ETag": f'"{self.etag}"', "type": "file"}

    def cat_file(self, url, start, end):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("lost")
        self.short -= 1
        return CONTENT[start : end - (1 if self.short >= 0 else 0)]


@pytest.fixture
def odd(memory):
    memory._files = Files()
    return memory


def test_the_version_is_compared_once(odd):
    for start in range(5):
        assert odd.read("a.tar", start, 3, etag="v1") == CONTENT[start : start + 3]
    assert odd._files.asked == 1
    with pytest.raises(CorruptError, match="changed"):
        odd.read("a.tar", 0, 3, etag="v0")


def test_short_answers_and_failures_are_asked_for_again(odd):
    odd._files.short = 1
    assert odd.read("a.tar", 0, 3) == CONTENT[:3]
    odd._files.failures = 2
    assert odd.read("a.tar", 0, 3) == CONTENT[:3]
    assert odd.counters.retries == 3
    odd._files.failures = 9
    with pytest.raises(UnavailableError, match="lost"):
        odd.read("a.tar", 0, 3)


def test_a_client_that_is_not_installed(monkeypatch):
    def missing(scheme, **options):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(SpecError, match="install gcsfs"):
        FsspecSource("gs://b/d").info("a.tar")


def test_a_size_that_nobody_tells():
    with pytest.raises(UnavailableError, match="does not tell its size"):
        source_fsspec._object_info("a", {"type": "file", "size": None}, "x://a")


def test_known_schemes():
    assert knows_scheme("gs")
    assert knows_scheme("memory")
    assert not knows_scheme("nosuch")

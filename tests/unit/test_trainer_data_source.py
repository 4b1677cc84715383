"""Sources: exact bytes or a typed error with a remedy."""

import errno
import threading

import pytest

from clip_trainer.data.storage import source_local
from clip_trainer.data.storage.location import parse_location
from clip_trainer.data.storage.source import ObjectInfo, SequentialReader, checked_name, open_source
from clip_trainer.data.storage.source_errors import typed_error
from clip_trainer.data.storage.source_local import LocalSource
from clipctl.contract.errors import (
    CannotCreateError,
    CorruptError,
    MissingError,
    PermissionDeniedError,
    SpecError,
    UnavailableError,
)


@pytest.fixture
def local(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "b.txt").write_bytes(b"not a shard")
    return LocalSource(str(tmp_path))


def test_local_ranges(local):
    assert local.read("a.tar", 10, 5) == bytes(range(10, 15))
    assert local.read("a.tar", 1024, 0) == b""
    assert local.info("a.tar")[:3] == ("a.tar", 1024, None)
    assert local.list_shards() == ("a.tar",)
    assert set(local.info_many(["a.tar", "none.tar"])) == {"a.tar"}
    assert (local.counters.requests, local.counters.bytes_read) == (2, 5)


def test_local_file_that_ends_early(local):
    with pytest.raises(CorruptError, match="6 bytes too early"):
        local.read("a.tar", 1020, 10)


@pytest.mark.parametrize("call", [lambda s: s.read("x", 0, 1), lambda s: s.info("x"), lambda s: s.load("x")])
def test_local_file_that_is_missing(local, call):
    with pytest.raises(MissingError, match="does not exist"):
        call(local)


def test_local_save_is_atomic(local, tmp_path, monkeypatch):
    local.save("sub/new.json", b"one")
    local.save("sub/new.json", b"two")
    assert local.load("sub/new.json") == b"two"

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(source_local.os, "fsync", full)
    with pytest.raises(CannotCreateError, match="No space left") as caught:
        local.save("sub/new.json", b"three")
    assert "Free some space" in caught.value.hint
    assert local.load("sub/new.json") == b"two"
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["new.json"], "no temporary file remains"


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.EACCES, PermissionDeniedError), (errno.EIO, UnavailableError), (errno.ENOENT, MissingError)],
)
def test_local_errors_are_typed(local, monkeypatch, code, expected):
    def fail(*args):
        raise OSError(code, "refused")

    monkeypatch.setattr(source_local.os, "open", fail)
    with pytest.raises(expected):
        local.read("a.tar", 0, 1)


def test_local_directory_without_permission(local, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, "refused")

    monkeypatch.setattr(source_local.tempfile, "mkstemp", refuse)
    with pytest.raises(PermissionDeniedError, match="may not be written"):
        local.save("x", b"")


def test_short_system_reads_are_continued(local, monkeypatch):
    pread = source_local.os.pread
    monkeypatch.setattr(source_local.os, "pread", lambda fd, count, offset: pread(fd, min(count, 3), offset))
    assert local.read("a.tar", 10, 8) == bytes(range(10, 18))


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a\0", "c:\\x", "s3://b/x", "..\\x"])
def test_names_stay_below_the_base(local, name):
    with pytest.raises(CorruptError, match="does not stay below"):
        checked_name(name)
    with pytest.raises(CorruptError):
        local.read(name, 0, 1)


def drained(stream, count):
    parts = []
    while part := stream.read(count):
        parts.append(part)
    return parts


def test_sequential_reader_is_exact_and_tells_every_byte_once(local, monkeypatch):
    monkeypatch.setattr("clip_trainer.data.storage.source._STREAM_CHUNK", 100)
    told = []
    parts = drained(SequentialReader(local, local.info("a.tar"), told.append), 77)
    assert b"".join(parts) == b"".join(told) == bytes(range(256)) * 4
    assert {len(part) for part in parts[:-1]} == {77}


class Remote:
    """An object far away. Reads of the first range wait until a later one has been asked for."""

    remote = True
    content = bytes(range(256)) * 4

    def __init__(self, fail_at=None):
        self.asked = []
        self.later = threading.Event()
        self.fail_at = fail_at

    def read(self, name, offset, length, *, etag=None):
        self.asked.append((offset, length, etag))
        if offset == 0:
            assert self.later.wait(60)
        else:
            self.later.set()
        if offset == self.fail_at:
            raise CorruptError("changed")
        return self.content[offset : offset + length]


def test_sequential_reader_fetches_ahead_and_hands_out_in_order(monkeypatch):
    monkeypatch.setattr("clip_trainer.data.storage.source._STREAM_CHUNK", 100)
    source, told = Remote(), []
    stream = SequentialReader(source, ObjectInfo("a.tar", 1024, "v1"), told.append)
    assert stream.read(10) == Remote.content[:10]
    assert len(source.asked) <= 4, "no more ahead than fits"
    assert b"".join(drained(stream, 333)) == Remote.content[10:]
    assert b"".join(told) == Remote.content
    assert sorted(source.asked) == [(at, min(100, 1024 - at), "v1") for at in range(0, 1024, 100)]


def test_sequential_reader_fails_where_the_object_does(monkeypatch):
    monkeypatch.setattr("clip_trainer.data.storage.source._STREAM_CHUNK", 100)
    told = []
    stream = SequentialReader(Remote(fail_at=300), ObjectInfo("a.tar", 1024, None), told.append)
    with pytest.raises(CorruptError, match="changed"):
        drained(stream, 50)
    assert b"".join(told) == Remote.content[:300]


def test_an_empty_object_is_read_to_its_end(local, tmp_path):
    (tmp_path / "empty.tar").touch()
    assert SequentialReader(local, local.info("empty.tar"), lambda chunk: None).read(10) == b""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/x", "S3Source"),
        ("https://host/x", "HttpSource"),
        ("http://host/x", "HttpSource"),
        ("memory://x", "FsspecSource"),
        ("pipe:cat x", "PipeSource"),
        ("data", "LocalSource"),
        ("file:///data", "LocalSource"),
    ],
)
def test_open_source_by_scheme(url, expected, monkeypatch):
    monkeypatch.setenv("CLIPCTL_ALLOW_PIPE", "1")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    source = open_source(parse_location(url))
    assert type(source).__name__ == expected
    assert source.remote == (expected not in ("LocalSource", "PipeSource"))


class DefaultCredentialsError(Exception):
    """Named like google-auth's."""


class HttpError(Exception):
    """Shaped like gcsfs's and aiohttp's."""

    def __init__(self, status):
        super().__init__(f"HTTP {status}")
        self.code = status


class HttpResponseError(Exception):
    """Shaped like azure-core's."""

    def __init__(self, status):
        super().__init__(f"HTTP {status}")
        self.status_code = status


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError("x"), MissingError),
        (HttpError(404), MissingError),
        (HttpResponseError(404), MissingError),
        (PermissionError("x"), PermissionDeniedError),
        (DefaultCredentialsError("none"), PermissionDeniedError),
        (HttpError(401), PermissionDeniedError),
        (HttpResponseError(403), PermissionDeniedError),
        (HttpError(416), CorruptError),
        (ConnectionRefusedError("refused"), UnavailableError),
        (TimeoutError(), UnavailableError),
        (HttpError(500), UnavailableError),
        (OSError(errno.ENOSPC, "full"), CannotCreateError),
        (ImportError("Install gcsfs"), SpecError),
        (NotImplementedError("no listing"), SpecError),
    ],
)
def test_client_errors_are_typed(error, expected):
    found = typed_error(error, "gs://b/x.tar")
    assert type(found) is expected
    assert "gs://b/x.tar" in found.problem
    assert found.hint


def test_wrapped_errors_are_understood():
    vague = OSError("something vague")
    vague.__cause__ = HttpError(403)
    assert isinstance(typed_error(vague, "x"), PermissionDeniedError)


def test_typed_errors_pass_unchanged():
    known = CorruptError("known")
    assert typed_error(known, "x") is known


def test_long_messages_are_cut():
    assert len(typed_error(RuntimeError("x" * 5000), "y").problem) < 300

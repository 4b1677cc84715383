"""Sources: exact bytes or a typed error with a remedy."""

import errno

import pytest

from clip_trainer.data import source_local
from clip_trainer.data.location import parse_location
from clip_trainer.data.retry import RetryPolicy
from clip_trainer.data.source import ObjectInfo, SequentialReader, checked_name, open_source
from clip_trainer.data.source_errors import typed_error
from clip_trainer.data.source_local import LocalSource
from clip_trainer.data.source_remote import s3_options
from clipctl.contract.errors import (
    CannotCreateError,
    ClipError,
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
    assert local.info("a.tar") == ObjectInfo("a.tar", 1024, None)
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


def test_sequential_reader_is_exact_and_tells_every_byte_once(local, monkeypatch):
    monkeypatch.setattr("clip_trainer.data.source._STREAM_CHUNK", 100)
    told = []
    stream = SequentialReader(local, local.info("a.tar"), told.append)
    parts = []
    while part := stream.read(77):
        parts.append(part)
    assert b"".join(parts) == b"".join(told) == bytes(range(256)) * 4
    assert {len(part) for part in parts[:-1]} == {77}


def test_open_source_by_scheme(tmp_path):
    assert isinstance(open_source(parse_location(str(tmp_path))), LocalSource)
    assert open_source(parse_location("s3://bucket/x")).remote


class ClientError(Exception):
    """Shaped like botocore's."""

    def __init__(self, code, status):
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class NoCredentialsError(Exception):
    pass


class HttpError(Exception):
    def __init__(self, status):
        super().__init__(f"HTTP {status}")
        self.status = status


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError("x"), MissingError),
        (ClientError("NoSuchBucket", 404), MissingError),
        (HttpError(404), MissingError),
        (PermissionError("x"), PermissionDeniedError),
        (NoCredentialsError("Unable to locate credentials"), PermissionDeniedError),
        (ClientError("InvalidAccessKeyId", 403), PermissionDeniedError),
        (ClientError("SignatureDoesNotMatch", 403), PermissionDeniedError),
        (ClientError("ExpiredToken", 400), PermissionDeniedError),
        (HttpError(401), PermissionDeniedError),
        (ClientError("InvalidRange", 416), CorruptError),
        (ClientError("PermanentRedirect", 301), SpecError),
        (ClientError("SlowDown", 503), UnavailableError),
        (ConnectionRefusedError("refused"), UnavailableError),
        (TimeoutError(), UnavailableError),
        (HttpError(500), UnavailableError),
        (OSError(errno.ENOSPC, "full"), CannotCreateError),
        (ImportError("Install gcsfs"), SpecError),
    ],
)
def test_client_errors_are_typed(error, expected):
    found = typed_error(error, "s3://b/x.tar")
    assert type(found) is expected
    assert "s3://b/x.tar" in found.problem
    assert found.hint


def test_wrapped_errors_are_understood():
    vague = OSError("something vague")
    vague.__cause__ = ClientError("AccessDenied", 403)
    assert isinstance(typed_error(vague, "x"), PermissionDeniedError)


def test_typed_errors_pass_unchanged():
    known = CorruptError("known")
    assert typed_error(known, "x") is known


def test_long_messages_are_cut():
    assert len(typed_error(RuntimeError("x" * 5000), "y").problem) < 300


class Flaky:
    def __init__(self, failures, error=UnavailableError):
        self.left, self.error = failures, error

    def __call__(self):
        if self.left:
            self.left -= 1
            raise self.error("no answer")
        return "answer"


def test_retries_are_bounded_jittered_and_counted():
    waits, retried = [], []
    policy = RetryPolicy(attempts=5, base=1.0, cap=3.0, sleep=waits.append, draw=lambda: 0.5)
    assert policy.run(Flaky(4), lambda: retried.append(1)) == "answer"
    assert waits == [0.5, 1.0, 1.5, 1.5]
    assert len(retried) == 4
    with pytest.raises(UnavailableError):
        policy.run(Flaky(5))


@pytest.mark.parametrize("error", [MissingError, PermissionDeniedError, CorruptError])
def test_what_waiting_cannot_mend_is_not_retried(error):
    flaky = Flaky(1, error)
    with pytest.raises(ClipError):
        RetryPolicy(sleep=lambda seconds: pytest.fail("waited")).run(flaky)


def test_s3_options_come_from_the_environment():
    assert s3_options({})["client_kwargs"] == {}
    local = s3_options({"AWS_ENDPOINT_URL": "http://store:9000"})
    assert local["client_kwargs"] == {"endpoint_url": "http://store:9000", "region_name": "us-east-1"}
    assert local["config_kwargs"]["s3"] == {"addressing_style": "path"}
    both = {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3", "AWS_REGION": "eu-west-1"}
    assert s3_options(both)["client_kwargs"] == {"endpoint_url": "http://s3", "region_name": "eu-west-1"}
    assert s3_options({"AWS_DEFAULT_REGION": "eu-north-1"})["client_kwargs"] == {"region_name": "eu-north-1"}

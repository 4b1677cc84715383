"""S3 as a source: what is asked for, and what the answers mean."""

from urllib.parse import parse_qs, urlsplit

import pytest

from clip_testkit.httpfaults import Answer, refuse
from clip_testkit.s3fault import fault_server
from clip_testkit.s3server import use_only
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.source_s3 import S3Source
from clipctl.contract.errors import CorruptError, MissingError, PermissionDeniedError, SpecError, UnavailableError

CONTENT = bytes(range(256)) * 4


@pytest.fixture
def server(monkeypatch, tmp_path):
    with fault_server({f"/bucket/d/{n:03d}.tar": CONTENT for n in range(100)}) as running:
        use_only(monkeypatch, running.url, tmp_path / "none")
        yield running


@pytest.fixture
def source(server):
    return S3Source("s3://bucket/d", retry=RetryPolicy(attempts=2, sleep=lambda seconds: None))


def listing(request, answer, chance):
    """Three objects, a page each."""
    query = parse_qs(urlsplit(request.path).query)
    assert query["list-type"] == ["2"]
    assert query["prefix"] == ["d/"]
    number = int(query.get("continuation-token", ["0"])[0])
    more = f"<NextContinuationToken>{number + 1}</NextContinuationToken>" if number < 2 else ""
    names = ("b.tar", "a%2Bb.tar", "index.json")
    return Answer(
        200,
        {},
        f"<ListBucketResult><IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}<Contents>"
        f"<Key>d/{names[number]}</Key><Size>5</Size><ETag>e</ETag></Contents></ListBucketResult>".encode(),
    )


def test_every_page_of_a_listing_is_read(server, source):
    server.add(listing, path=r"\?")
    assert source.list_shards() == ("a+b.tar", "b.tar")
    assert len(server.requests) == 3


def test_many_objects_are_listed_and_few_are_asked_for_one_by_one(server, source):
    assert set(source.info_many(["001.tar", "none.tar"])) == {"001.tar"}
    assert {request.method for request in server.requests} == {"HEAD"}
    server.requests.clear()
    server.add(listing, path=r"\?")
    assert source.info_many(["b.tar", *(f"{n}.tar" for n in range(99))])["b.tar"].bytes == 5
    assert {request.method for request in server.requests} == {"GET"}
    server.requests.clear()
    assert len(source.info_many([f"x/{n}.tar" for n in range(70)])) == 0
    assert len(server.requests) == 70, "other directories are not in the listing"


def test_requests_are_signed_and_name_their_sender(server, source):
    source.read("001.tar", 5, 10, etag=source.info("001.tar").etag)
    for request in server.requests:
        assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=test/")
        assert request.headers["user-agent"] == "clipctl (data)"
    assert server.requests[-1].headers["if-match"].strip('"') == source.info("001.tar").etag


def test_public_buckets_are_read_without_a_signature(server, monkeypatch):
    monkeypatch.setenv("FSSPEC_S3_ANON", "true")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    source = S3Source("s3://bucket/d", retry=RetryPolicy(attempts=1))
    assert source.read("001.tar", 5, 10) == CONTENT[5:15]
    assert "authorization" not in server.requests[0].headers
    server.add(refuse(403, code="ExpiredToken"))
    with pytest.raises(PermissionDeniedError):
        source.read("001.tar", 5, 10)


def test_whole_objects_are_of_one_version(server, source):
    assert source.load("001.tar") == CONTENT
    versions = iter([CONTENT, CONTENT[::-1]])
    server.add(lambda request, answer, chance: answer, methods=("HEAD",))
    server.objects["/bucket/d/002.tar"] = next(versions)

    def swap(request, answer, chance):
        server.objects["/bucket/d/002.tar"] = CONTENT[::-1]
        return answer

    server.add(swap, methods=("HEAD",), path="002")
    with pytest.raises(CorruptError, match="changed"):
        source.load("002.tar")


def test_an_empty_object(server, source):
    server.objects["/bucket/d/empty"] = b""
    assert source.info("empty").bytes == 0
    assert source.load("empty") == b""


def test_uploads_carry_their_length_and_digest(server, source):
    server.add(lambda request, answer, chance: Answer(200), methods=("PUT",))
    source.save("new.tar", CONTENT)
    source.save("empty", b"")
    full, empty = server.requests
    assert full.body == CONTENT
    assert full.headers["content-length"] == "1024"
    assert len(full.headers["x-amz-content-sha256"]) == 64
    assert empty.headers["content-length"] == "0"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", PermissionDeniedError),
        (404, "NoSuchBucket", MissingError),
        (301, "PermanentRedirect", SpecError),
        (503, "SlowDown", UnavailableError),
    ],
)
@pytest.mark.parametrize("call", [lambda s: s.info("001.tar"), lambda s: s.list_shards(), lambda s: s.save("x", b"y")])
def test_refusals_are_typed_whatever_is_asked(server, source, status, code, expected, call):
    server.add(refuse(status, code=code), methods=("GET", "HEAD", "PUT"))
    with pytest.raises(expected, match="does not exist" if status == 404 else str(status)):
        call(source)


def test_what_is_no_listing_is_asked_for_again_and_then_an_error(server, source):
    server.add(lambda request, answer, chance: Answer(200, {}, b"<html></html>"), path=r"\?")
    with pytest.raises(UnavailableError, match="something else than a listing"):
        source.list_shards()


def test_uploads_are_repeated(server, source):
    server.add(lambda request, answer, chance: Answer(200), methods=("PUT",))
    server.add(refuse(503), methods=("PUT",), times=1)
    source.save("new.tar", CONTENT)
    assert source.counters.retries == 1
    assert [len(request.body) for request in server.requests] == [1024, 1024]

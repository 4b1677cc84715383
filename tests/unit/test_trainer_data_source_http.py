"""Web servers as sources: sizes, credentials in addresses, names that need encoding."""

import pytest

from clip_testkit.httpfaults import Answer, refuse
from clip_testkit.s3fault import fault_server
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.source_http import HttpSource
from clipctl.contract.errors import (
    CannotCreateError,
    CorruptError,
    MissingError,
    PermissionDeniedError,
    UnavailableError,
)

CONTENT = bytes(range(256)) * 10


@pytest.fixture
def server():
    with fault_server({"/d/a.tar": CONTENT}) as running:
        yield running


def source(server, path="/d", **options):
    return HttpSource(server.url + path, retry=RetryPolicy(attempts=2, sleep=lambda seconds: None), **options)


def test_sizes_and_ranges(server):
    web = source(server)
    info = web.info("a.tar")
    assert (info.name, info.bytes) == ("a.tar", 2560)
    assert len(info.etag) == 32
    assert web.read("a.tar", 5, 10, etag=info.etag) == CONTENT[5:15]
    assert web.read("a.tar", 5, 0) == b""
    assert web.load("a.tar") == CONTENT
    assert set(web.info_many(["a.tar", "none.tar"])) == {"a.tar"}
    assert web.remote
    assert web.base == server.url + "/d"


def test_what_a_web_server_cannot_do(server):
    with pytest.raises(MissingError, match=r"cannot be listed over http, and holds no index\.json"):
        source(server).list_shards()
    with pytest.raises(CannotCreateError, match="cannot be written over http"):
        source(server).save("a", b"")


def test_a_server_that_does_not_know_head(server):
    server.add(refuse(405), methods=("HEAD",))
    assert source(server).info("a.tar").bytes == 2560
    server.ranges = False
    assert source(server).info("a.tar").bytes == 2560


def test_weak_etags_name_no_version(server):
    server.add(lambda request, answer, chance: Answer(200, {"ETag": 'W/"x"'}, b"abc"), methods=("GET", "HEAD"))
    assert source(server).info("a.tar").etag is None
    assert source(server).read("a.tar", 0, 3) == b"abc"


def test_a_file_that_changes_is_noticed_although_the_server_ignores_conditions(server):
    web = source(server)
    etag = web.info("a.tar").etag
    server.add(lambda request, answer, chance: Answer(200, {"ETag": '"other"'}, CONTENT[::-1]))
    with pytest.raises(CorruptError, match="changed"):
        web.read("a.tar", 0, 10, etag=etag)


def test_passwords_go_to_the_server_and_are_shown_nowhere(server):
    address = server.url.replace("//", "//me:s3cret%21@") + "/d"
    web = HttpSource(address, retry=RetryPolicy(attempts=1))
    web.info("a.tar")
    assert server.requests[-1].headers["authorization"] == "Basic bWU6czNjcmV0IQ=="
    assert "s3cret" not in web.base
    server.add(refuse(403))
    with pytest.raises(PermissionDeniedError) as caught:
        web.read("a.tar", 0, 10)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "name", "sent"),
    [
        ("/d", "a b+c#d?e%f.tar", "/d/a%20b%2Bc%23d%3Fe%25f.tar"),
        ("/d", "sub/ü.tar", "/d/sub/%C3%BC.tar"),
        ("/d%20x/ä", "a.tar", "/d%20x/%C3%A4/a.tar"),
        ("", "a.tar", "/a.tar"),
    ],
)
def test_names_are_encoded_and_addresses_taken_as_they_are(server, path, name, sent):
    with pytest.raises(MissingError):
        source(server, path).load(name)
    assert server.requests[-1].path == sent


@pytest.mark.parametrize("name", ["../x", "/x", "http://other/x", ""])
def test_names_stay_below_the_base(server, name):
    with pytest.raises(CorruptError):
        source(server).read(name, 0, 1)
    assert not server.requests


def test_a_size_that_nobody_tells_is_an_error(server):
    server.add(refuse(405), methods=("HEAD",))
    server.add(lambda request, answer, chance: Answer(206, {"Content-Range": "bytes 0-0/*"}, b"x"))
    with pytest.raises(UnavailableError, match="does not tell its size"):
        HttpSource(server.url, retry=RetryPolicy(attempts=1)).info("a.tar")


def test_expired_tokens_of_a_web_server_are_a_refusal(server):
    server.add(refuse(403, code="ExpiredToken"))
    with pytest.raises(PermissionDeniedError):
        source(server).read("a.tar", 0, 1)
    assert len(server.requests) == 1

"""The fault server: good answers where no rule says otherwise, and the faults that the rules ask for."""

import http.client
import random
from urllib.parse import urlsplit

import pytest

from clip_testkit.httpfaults import (
    Answer,
    Request,
    close_after,
    damage,
    expire_token,
    refuse,
    reset_after,
    truncate,
    web_page,
)
from clip_testkit.s3fault import fault_server

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def server():
    with fault_server({"/a": CONTENT}) as running:
        yield running


def ask(server, method="GET", path="/a", **headers):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_objects_are_served_as_s3_does(server):
    status, headers, body = ask(server)
    assert (status, body) == (200, CONTENT)
    etag = headers["ETag"]
    status, headers, body = ask(server, Range="bytes=5-9", If_Match=etag)
    assert (status, headers["Content-Range"], body) == (206, "bytes 5-9/256000", CONTENT[5:10])
    assert ask(server, Range="bytes=255999-")[2] == CONTENT[-1:]
    assert ask(server, If_Match='"other"')[0] == 412
    assert ask(server, Range="bytes=256000-")[0] == 416
    assert ask(server, path="/b")[0] == 404
    status, headers, body = ask(server, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "256000", b"")
    assert server.sent == 256_000 + 5 + 1 + len(b"<Error><Code>NoSuchKey</Code></Error>") + len(
        b"<Error><Code>PreconditionFailed</Code></Error>"
    )


@pytest.mark.parametrize(
    ("fault", "error"),
    [(reset_after(100_000), ConnectionResetError), (close_after(100_000), http.client.IncompleteRead)],
)
def test_everything_before_a_break_arrives(server, fault, error):
    server.add(fault)
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.request("GET", "/a")
    response = connection.getresponse()
    assert response.read(100_000) == CONTENT[:100_000]
    with pytest.raises(error):
        response.read()
    connection.close()
    response.close()
    assert server.sent == 100_000


def test_rules_say_when(server):
    server.add(refuse(503), times=2, path="a$")
    server.add(refuse(500), methods=("PUT",))
    assert [ask(server)[0] for _ in range(4)] == [503, 503, 200, 200]
    assert ask(server, "PUT")[0] == 500
    server.heal()
    assert ask(server, "PUT")[0] == 200
    assert [request.method for request in server.requests] == ["GET"] * 4 + ["PUT"] * 2
    assert server.connections == 6


def test_chance_is_seeded():
    def statuses(seed):
        with fault_server({"/a": b"x"}, seed=seed) as server:
            server.add(refuse(503), probability=0.5)
            return [ask(server)[0] for _ in range(20)]

    assert statuses(1) == statuses(1)
    assert statuses(1) != statuses(2)
    assert set(statuses(1)) == {200, 503}


def test_another_server_stands_behind(server):
    with fault_server(upstream=server.url) as proxy:
        assert ask(proxy)[2] == CONTENT
        assert ask(proxy, "HEAD")[1]["Content-Length"] == "256000"
        proxy.add(truncate(10))
        assert ask(proxy)[2] == CONTENT[:10]
        assert len(server.requests) == 3


REQUEST = Request("GET", "/a", {"x-amz-security-token": "old"})
GOOD = Answer(200, {"ETag": '"v1"'}, CONTENT)
CHANCE = random.Random(0)


def test_faults_on_their_own():
    assert reset_after(5)(REQUEST, GOOD, CHANCE).stop_after == 5
    assert reset_after(10**9)(REQUEST, GOOD, CHANCE) == GOOD, "a short body is not broken"
    wrong = damage(3)(REQUEST, GOOD, CHANCE)
    assert len(wrong.body) == len(CONTENT)
    assert 1 <= sum(one != other for one, other in zip(wrong.body, CONTENT, strict=True)) <= 3
    assert damage()(REQUEST, Answer(200), CHANCE).body == b""
    assert web_page()(REQUEST, GOOD, CHANCE).headers["Content-Type"].startswith("text/html")
    assert expire_token("old")(REQUEST, GOOD, CHANCE).status == 403
    assert expire_token("new")(REQUEST, GOOD, CHANCE) == GOOD
    refusal = refuse(429, retry_after=3, code="SlowDown")(REQUEST, GOOD, CHANCE)
    assert refusal.headers == {"Retry-After": "3"}
    assert b"<Code>SlowDown</Code>" in refusal.body

"""The server that serves weights badly does so exactly as it is told."""

import hashlib
import http.client
import json
import threading
import urllib.parse

import pytest

from clip_testkit.weightserver import COMMIT, Fault, serving

CONTENT = b"0123456789" * 10


@pytest.fixture(name="server")
def _server():
    with serving() as server:
        yield server


def ask(server, path, method="GET", **headers):
    """Status, headers and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=60)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_a_file_and_what_was_asked(server):
    server.add("/a b", CONTENT)
    status, headers, body = ask(server, "/a%20b?query=1", X_Test="yes")
    assert (status, body) == (200, CONTENT)
    assert headers["ETag"] == server.files["/a b"].etag
    (request,) = server.asked("/a b")
    assert (request.method, request.headers["X-Test"]) == ("GET", "yes")
    assert ask(server, "/none")[0] == 404


def test_head_has_no_body_and_leaves_faults_for_get(server):
    server.add("/f", CONTENT, faults=[Fault(status=503)])
    status, headers, body = ask(server, "/f", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "100", b"")
    assert ask(server, "/f")[0] == 503
    assert ask(server, "/f")[0] == 200


def test_a_fault_may_be_for_head_too(server):
    server.add("/f", CONTENT, faults=[Fault(status=401, headers={"X-Error-Code": "GatedRepo"}, head_too=True)])
    status, headers, _ = ask(server, "/f", "HEAD")
    assert (status, headers["X-Error-Code"]) == (401, "GatedRepo")
    assert ask(server, "/f")[0] == 200


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ({"Range": "bytes=40-"}, 206, CONTENT[40:]),
        ({"Range": "bytes=40-", "If_Range": '"v"'}, 206, CONTENT[40:]),
        ({"Range": "bytes=40-", "If_Range": '"old"'}, 200, CONTENT),
        ({"Range": "bytes=0-4"}, 200, CONTENT),
        ({"Range": "bytes=101-"}, 416, b""),
    ],
)
def test_ranges(server, asked, status, body):
    server.add("/f", CONTENT, etag='"v"')
    found, headers, got = ask(server, "/f", **asked)
    assert (found, got) == (status, body)
    if status == 206:
        assert headers["Content-Range"] == "bytes 40-99/100"


def test_a_server_that_knows_no_ranges(server):
    server.add("/f", CONTENT, ranges=False)
    assert ask(server, "/f", Range="bytes=40-")[0] == 200


def test_a_cut(server):
    server.add("/f", CONTENT, faults=[Fault(cut_after=30)])
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(server, "/f")
    assert caught.value.partial == CONTENT[:30]
    assert ask(server, "/f")[2] == CONTENT


def test_a_held_body_comes_when_it_is_let_go(server):
    gate = threading.Event()
    server.add("/f", CONTENT, faults=[Fault(hold=gate)])
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=60)
    connection.request("GET", "/f")
    response = connection.getresponse()  # the head comes at once
    gate.set()
    assert response.read() == CONTENT
    connection.close()


def test_stopping_ends_what_is_stalled():
    with serving() as server:
        server.add("/f", CONTENT, faults=[Fault(stall_after=10)])
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=60)
        connection.request("GET", "/f")
        response = connection.getresponse()
        assert response.read(10) == CONTENT[:10]
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    connection.close()


def test_redirects(server):
    server.add("/f", b"", redirect="/g", headers={"X-Repo-Commit": COMMIT})
    status, headers, _ = ask(server, "/f")
    assert (status, headers["Location"], headers["X-Repo-Commit"]) == (302, "/g", COMMIT)


def test_a_large_file_of_the_hub(server):
    server.add_hub_file("org/model", "w.bin", CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    for revision in ("main", COMMIT):
        status, headers, _ = ask(server, f"/org/model/resolve/{revision}/w.bin", "HEAD")
        assert status == 302
        assert headers["X-Linked-Etag"] == f'"{sha256}"'
        assert headers["X-Linked-Size"] == "100"
        assert headers["X-Repo-Commit"] == COMMIT
        assert headers["Location"] == f"{server.url}/storage/{sha256}"
    assert ask(server, f"/storage/{sha256}")[2] == CONTENT


def test_a_small_file_of_the_hub(server):
    server.add_hub_file("org/model", "config.json", b"{}", large=False)
    status, headers, body = ask(server, "/org/model/resolve/main/config.json")
    assert (status, body) == (200, b"{}")
    assert headers["ETag"] == '"9e26dfeeb6e641a33dae4961196235bdb965b21b"'
    assert "X-Linked-Etag" not in headers


def test_a_description_of_a_repository(server):
    server.add_hub_info("org/model", ["a", "b"], "mit")
    _, _, body = ask(server, "/api/models/org/model/revision/main")
    assert json.loads(body) == {
        "sha": COMMIT,
        "siblings": [{"rfilename": "a"}, {"rfilename": "b"}],
        "cardData": {"license": "mit"},
    }


def test_two_servers_do_not_meet():
    with serving() as one, serving() as other:
        one.add("/f", b"one")
        assert one.url != other.url
        assert ask(other, "/f")[0] == 404
        assert one.requests == []

"""Requests against servers on the loopback interface: connections, redirects, proofs of who is asking."""

import socket
import threading
from urllib.parse import urlsplit

import pytest

from clip_testkit.httpfaults import Answer, close_after, refuse
from clip_testkit.s3fault import fault_server
from clip_trainer.data.storage.http_client import HttpClient, Proof, Request
from clip_trainer.data.storage.http_connections import ConnectionPool, Timeouts
from clip_trainer.data.storage.http_errors import ExpiredCredentialsError
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.source import SourceCounters
from clipctl.contract.errors import PermissionDeniedError, SpecError, UnavailableError

CONTENT = bytes(range(256)) * 1000


class Authorizer:
    follows_redirects = True

    def __init__(self, *keys):
        self.keys = list(keys)

    def prove(self, request):
        if not self.keys:
            raise PermissionDeniedError("no keys")
        return Proof({"Authorization": self.keys[0]}, self.keys[0])

    def renew(self, refused):
        assert refused.keys == self.keys.pop(0)


@pytest.fixture
def server():
    with fault_server({"/a": CONTENT, "/b": b"other"}) as running:
        yield running


@pytest.fixture
def other():
    with fault_server({"/a": CONTENT}) as running:
        yield running


def client(authorizer=None, attempts=1, **options):
    retry = RetryPolicy(attempts=attempts, sleep=lambda seconds: None)
    return HttpClient(ConnectionPool(**options), authorizer or Authorizer("key"), retry, SourceCounters())


def get(url, method="GET", **options):
    return Request(method, urlsplit(url), url, **options)


def test_one_connection_serves_many_requests(server):
    asked = client(clock=lambda: 0.0)  # it never rests for too long, whatever else the machine does
    for _ in range(5):
        assert asked.call(get(f"{server.url}/a")) == CONTENT
        asked.headers(get(f"{server.url}/a", "HEAD"))
    assert server.connections == 1
    assert asked.counters.requests == 10


def test_a_connection_with_an_unread_rest_is_not_used_again(server):
    asked = client()
    with asked.open(get(f"{server.url}/a")) as response:
        assert response.read(10) == CONTENT[:10]
    assert asked.call(get(f"{server.url}/b")) == b"other"
    assert server.connections == 2


def test_threads_use_connections_of_their_own(server):
    asked, found, barrier = client(), [], threading.Barrier(4)

    def work():
        with asked.open(get(f"{server.url}/a")) as response:
            barrier.wait(60)
            found.append(response.read_rest(1 << 20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert server.connections == 4


def test_a_connection_that_the_server_closed_meanwhile_is_no_failure(server):
    asked = client()
    server.add(lambda request, answer, chance: answer.__class__(200, {"X": "1"}, b"bye", stop_after=3, ending="reset"))
    assert asked.call(get(f"{server.url}/a")) == b"bye"
    server.heal()
    assert asked.call(get(f"{server.url}/b")) == b"other"
    assert asked.counters.retries == 0


def test_connections_that_rested_too_long_are_not_used(server):
    now = [0.0]
    asked = client(clock=lambda: now[0])
    asked.call(get(f"{server.url}/b"))
    now[0] += 9
    asked.call(get(f"{server.url}/b"))
    now[0] += 11
    asked.call(get(f"{server.url}/b"))
    assert server.connections == 2


def test_an_answer_that_takes_too_long_is_given_up(server):
    now = [0.0]
    asked = client(clock=lambda: now[0], timeouts=Timeouts(deadline=60))
    with asked.open(get(f"{server.url}/a")) as response:
        response.read(50_000)
        now[0] += 59
        response.read(50_000)
        now[0] += 2
        with pytest.raises(UnavailableError, match="takes too long"):
            response.read_rest(1 << 20)


def test_a_body_that_ends_early_is_never_a_whole_one(server):
    server.add(close_after(1000))
    with pytest.raises(UnavailableError, match="255000 bytes early"):
        client().call(get(f"{server.url}/a"))


def test_whole_answers_are_asked_for_again(server):
    server.add(close_after(1000), times=2)
    asked = client(attempts=3)
    assert asked.call(get(f"{server.url}/a")) == CONTENT
    assert asked.counters.retries == 2


def moved_to(place, status=302):
    return lambda request, answer, chance: Answer(status, {"Location": place})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server, status):
    server.add(moved_to("/b", status), path="/a")
    assert client().call(get(f"{server.url}/a")) == b"other"


def test_proofs_do_not_go_to_another_server(server, other):
    server.add(moved_to(f"{other.url}/a"))
    assert client().call(get(f"{server.url}/a", headers={"Range": "bytes=0-9"})) == CONTENT[:10]
    assert server.requests[0].headers["authorization"] == "key"
    assert "authorization" not in other.requests[0].headers
    assert other.requests[0].headers["range"] == "bytes=0-9", "what is asked for goes along"


def test_circles_end(server):
    server.add(moved_to("/a"))
    with pytest.raises(SpecError, match="circles"):
        client().call(get(f"{server.url}/a"))
    assert len(server.requests) < 10


def test_encryption_is_not_left():
    class Pool:
        def request(self, method, url, headers, what, body):
            return Moved()

    class Moved:
        status = 302
        headers = {"Location": "http://host/a"}

        def release(self):
            pass

    asked = HttpClient(Pool(), Authorizer("key"), RetryPolicy(), SourceCounters())
    with pytest.raises(SpecError, match="without encryption"):
        asked.call(get("https://host/a"))


def test_signed_requests_are_not_redirected(server):
    authorizer = Authorizer("key")
    authorizer.follows_redirects = False
    server.add(moved_to("/b", 307))
    with pytest.raises(SpecError, match="another region or at another address"):
        client(authorizer).call(get(f"{server.url}/a"))


def refuse_key(key):
    expired = refuse(403, code="ExpiredToken")
    return lambda request, answer, chance: (
        expired(request, answer, chance) if request.headers["authorization"] == key else answer
    )


def test_expired_keys_are_renewed_once(server):
    server.add(refuse_key("old"))
    assert client(Authorizer("old", "new")).call(get(f"{server.url}/b")) == b"other"
    assert [request.headers["authorization"] for request in server.requests] == ["old", "new"]


def test_new_keys_that_have_expired_too_are_the_end(server):
    server.add(refuse_key("old"))
    server.add(refuse_key("new"))
    with pytest.raises(ExpiredCredentialsError):
        client(Authorizer("old", "new", "newer"), attempts=5).call(get(f"{server.url}/b"))
    assert len(server.requests) == 2


def test_a_place_where_nobody_listens(server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        asked = client(attempts=3)
        with pytest.raises(UnavailableError, match="refused"):
            asked.call(get(f"http://127.0.0.1:{unused.getsockname()[1]}/a"))
    assert asked.counters.retries == 2


@pytest.mark.parametrize("url", ["ftp://host/a", "http:///a", "http://host:99999999/a"])
def test_what_is_no_address(url):
    with pytest.raises(SpecError):
        client().call(get(url))


def test_something_that_is_no_web_server():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 smtp ready\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UnavailableError):
            client().call(get(f"http://127.0.0.1:{listener.getsockname()[1]}/a"))
        thread.join()


@pytest.mark.parametrize("keep", [True, False])
def test_bodies_in_chunks_and_bodies_that_end_with_the_connection(keep):
    head = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n" if keep else b"\r\nabcde"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)

        thread = threading.Thread(target=serve)
        thread.start()
        assert client().call(get(f"http://127.0.0.1:{listener.getsockname()[1]}/a")) == b"abcde"
        thread.join()


def test_proxies_of_the_environment_are_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//user:pa%20ss@"))
    monkeypatch.delenv("no_proxy", raising=False)
    seen = []
    server.add(lambda request, answer, chance: seen.append(request.path) or Answer(200, {}, b"by proxy"))
    assert client().call(get("http://elsewhere/b?x=1")) == b"by proxy"
    assert seen == ["http://elsewhere/b?x=1"]
    assert server.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwYSBzcw=="
    assert server.requests[0].headers["host"] == "elsewhere"


def test_no_proxy_for_what_is_near(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert client().call(get(f"{server.url}/b")) == b"other"


@pytest.mark.parametrize("address", ["socks5://127.0.0.1:1", "http://host:port", "http://"])
def test_proxies_that_cannot_be_used(server, monkeypatch, address):
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(SpecError, match="HTTP_PROXY is not the address of a proxy"):
        client().call(get("http://elsewhere/b"))

"""One GET against servers of the loopback interface: what is sent, what is understood, and every way it can fail."""

import datetime
import socket
import ssl
import time
from email.utils import format_datetime

import pytest

from clip_testkit.cluster.certificates import Identity, authority, issue
from clip_testkit.imageserver import Page, babble, reset, serving_images
from clip_trainer.data.gather.address import is_any
from clip_trainer.data.gather.errors import GatherError
from clip_trainer.data.gather.exchange import Limits, WebClient, host_of
from clip_trainer.data.gather.fetch import Acceptance, ImageFetcher


def in_ten_minutes():
    """A date as servers send it, ten minutes from now."""
    then = datetime.datetime.fromtimestamp(time.time() + 600, datetime.timezone.utc)
    return format_datetime(then, usegmt=True)


LIMITS = Limits(connect=60.0, read=60.0, total=120.0)


@pytest.fixture
def server():
    with serving_images() as running:
        yield running


@pytest.fixture
def client():
    made = WebClient("clipctl (test)", LIMITS, is_any)
    yield made
    made.close()


def body(client, url, limit=1 << 20):
    with client.get(url) as answer:
        return answer.body(limit)


def failure(client, url, limit=1 << 20):
    with pytest.raises(GatherError) as caught:
        body(client, url, limit)
    return caught.value


def test_requests_say_who_asks_and_what_for(server, client):
    server.pages = {"/a%20b.png?q=1": Page(b"x")}
    assert body(client, server.url + "/a b.png?q=1#part") == b"x"
    headers = server.asked[0].headers
    assert headers["User-Agent"] == "clipctl (test)"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Accept"].startswith("image/*")
    assert headers["Host"] == server.url.removeprefix("http://")
    assert "Cookie" not in headers
    assert "Authorization" not in headers


def test_connections_are_used_again_once_a_body_was_read(server, client):
    server.pages = {"/x": Page(bytes(300_000)), "/404": Page(b"no", 404)}
    for _ in range(20):
        assert len(body(client, f"{server.url}/x")) == 300_000
    assert server.connections == 1
    with client.get(f"{server.url}/x") as answer:
        assert answer.start_of_body(10) == bytes(10)
    assert len(body(client, f"{server.url}/x")) == 300_000
    assert server.connections == 2, "the rest of a body is not read only to keep a connection"


def test_a_body_may_have_just_so_many_bytes(server, client):
    server.pages = {"/stated": Page(bytes(1000)), "/chunked": Page(bytes(1000), headers={"Connection": "close"})}
    for path in server.pages:
        assert len(body(client, server.url + path, 1000)) == 1000
        error = failure(client, server.url + path, 999)
        assert (error.reason, error.code, error.transient) == ("too-large", 200, False)


def test_an_empty_body(server, client):
    server.pages = {"/x": Page(b"")}
    assert body(client, f"{server.url}/x") == b""


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("-3", 0, 0),
        ("soon", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        (in_ten_minutes, 400, 600),
        ("Fri, 99 Foo 2099", 0, 0),
    ],
)
def test_how_long_to_wait(server, client, value, least, most):
    header = value() if callable(value) else value  # not when tests are collected, which may be half an hour before
    server.pages = {"/x": Page(status=503, headers={"Retry-After": header})}
    error = failure(client, f"{server.url}/x")
    assert (error.reason, error.transient) == ("http-503", True)
    assert least <= error.retry_after <= most


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b.png", "http://HOST/b.png"),
        ("b.png", "http://HOST/dir/b.png"),
        ("//other.test/b.png", "http://other.test/b.png"),
        ("https://other.test/b.png?x=1", "https://other.test/b.png?x=1"),
        ("?again", "http://HOST/dir/a.png?again"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_told_not_followed(server, client, location, target, status):
    server.pages = {"/dir/a.png": Page(status=status, headers={"Location": location})}
    with client.get(f"{server.url}/dir/a.png") as answer:
        assert answer.location == target.replace("HOST", server.url.removeprefix("http://"))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "location", ["", "file:///etc/passwd", "data:image/png;base64,xx", "http://[::1", "http://a:b/"]
)
def test_redirects_that_lead_nowhere(server, client, location):
    server.pages = {"/x": Page(status=302, headers={"Location": location})}
    error = failure(client, f"{server.url}/x")
    assert (error.reason, error.transient) == ("redirect", False)


@pytest.mark.parametrize("url", ["", "x.png", "ftp://a.test/x", "//a.test/x", "http://", "http:///x", "http://a.test:x/",
                                 "http://[::1/", "javascript:alert(1)", "http://a.test/\ufffd"])  # fmt: skip
def test_what_is_no_address(client, url):
    with pytest.raises(GatherError) as caught:
        host_of(url)
    assert caught.value.reason == "bad-url"
    assert failure(client, url).reason == "bad-url"


def test_hosts_are_compared_in_lower_case():
    assert host_of("HTTP://A.Test:8080/X") == "a.test"
    assert host_of("https://user:word@[2001:DB8::1]/") == "2001:db8::1"


@pytest.mark.parametrize(
    ("page", "reason", "transient"),
    [
        (Page(send=reset), "connection", True),
        (Page(b"", send=babble), "connection", True),
        (Page(b"220 mail.test ESMTP ready\r\n", send=babble), "protocol", False),
        (Page(b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 200 + b"\r\n", send=babble), "protocol", False),
        (Page(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", send=babble), "protocol", False),
        (Page(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", send=babble), "truncated", True),
        (Page(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc", send=babble), "truncated", True),
        (Page(b"x", status=206), "http-206", False),
        (Page(status=304), "http-304", False),
        (Page(status=429), "http-429", True),
    ],
)
def test_answers_that_are_of_no_use(server, client, page, reason, transient):
    server.pages = {"/x": page}
    error = failure(client, f"{server.url}/x")
    assert (error.reason, error.transient) == (reason, transient)
    server.pages = {"/x": Page(b"fine")}
    assert body(client, f"{server.url}/x") == b"fine", "the client is as good as new"


def test_nobody_listens(client):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and held, or another process might listen there
        error = failure(client, f"http://127.0.0.1:{taken.getsockname()[1]}/x")
    assert (error.reason, error.transient) == ("connection", True)


def test_rules_are_found_behind_redirects_and_read_in_part(server, client):
    fetcher = ImageFetcher(client, "clipctl", Acceptance())
    server.pages = {
        "/robots.txt": Page(status=301, headers={"Location": "/rules"}),
        "/rules": Page(b"User-agent: *\nDisallow: /no/\n" + b"#" * 600_000 + b"\nUser-agent: clipctl\nDisallow: /\n"),
    }
    assert fetcher.delay(f"{server.url}/yes/x") == 0.0
    with pytest.raises(GatherError, match="robots"):
        fetcher.delay(f"{server.url}/no/x")


def test_rules_that_redirect_in_circles_are_none(server, client):
    server.pages = {"/robots.txt": Page(status=302, headers={"Location": "/robots.txt"})}
    assert ImageFetcher(client, "clipctl", Acceptance()).delay(f"{server.url}/x") == 0.0
    assert len(server.asked) == 6


@pytest.fixture
def certified(tmp_path, monkeypatch):
    """A TLS context for a server called localhost or 127.0.0.1; clients made from now on trust its authority."""
    now = datetime.datetime.now(datetime.timezone.utc)
    ca = authority(now)
    pair = issue(ca, Identity("server", "server", names=("localhost", "127.0.0.1")), now)
    (tmp_path / "ca.pem").write_bytes(ca.certificate_pem())
    (tmp_path / "server.pem").write_bytes(pair.key_pem() + pair.certificate_pem())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    return context


def test_certificates_are_checked_against_the_name_while_the_address_is_a_checked_one(certified):
    looked_at = []

    def allowed(address):
        looked_at.append(address)
        return address == "127.0.0.1"

    with serving_images(tls=certified) as server:
        server.pages = {"/x": Page(b"over TLS")}
        client = WebClient("clipctl", LIMITS, allowed)
        port = server.url.rpartition(":")[2]
        assert body(client, f"https://localhost:{port}/x") == b"over TLS"
        assert "127.0.0.1" in looked_at
        client.close()


def test_certificates_of_others_are_refused(certified, monkeypatch):
    with serving_images("127.0.0.2", certified) as other_name:
        client = WebClient("clipctl", LIMITS, is_any)
        error = failure(client, f"{other_name.url}/x")
        assert (error.reason, error.transient) == ("tls", False)
        client.close()
    monkeypatch.delenv("SSL_CERT_FILE")
    with serving_images(tls=certified) as unknown_authority:
        client = WebClient("clipctl", LIMITS, is_any)
        assert failure(client, f"{unknown_authority.url}/x").reason == "tls"
        client.close()


def test_encryption_is_not_given_up_on_the_way(certified):
    with serving_images(tls=certified) as server, serving_images() as plain:
        server.pages = {"/x": Page(status=302, headers={"Location": f"{plain.url}/x"})}
        plain.pages = {"/x": Page(status=302, headers={"Location": f"{server.url}/y"})}
        client = WebClient("clipctl", LIMITS, is_any)
        error = failure(client, f"{server.url}/x")
        assert (error.reason, error.detail) == ("redirect", "from https to http")
        with client.get(f"{plain.url}/x") as answer:
            assert answer.location == f"{server.url}/y"
        client.close()


def test_a_server_without_encryption_where_it_is_asked_for(server, client):
    error = failure(client, server.url.replace("http:", "https:") + "/x")
    assert error.reason == "tls"

"""The HTTP client, its errors and its origins, one request at a time."""

import socket

import pytest

from clip_testkit.fetching import fetch_settings
from clip_testkit.weightserver import Fault, serving
from clip_trainer.pretrained import httperrors
from clip_trainer.pretrained.httpclient import HttpClient, OfflineError
from clip_trainer.pretrained.origins import HttpOrigin, bare_etag
from clip_trainer.pretrained.patience import TransientError
from clipctl.contract.errors import MissingError, PermissionDeniedError, SpecError, UnavailableError

CONTENT = b"0123456789" * 1000


@pytest.fixture(name="server")
def _server():
    with serving() as server:
        yield server


@pytest.fixture(name="client")
def _client(server, tmp_path):
    return HttpClient(fetch_settings(tmp_path, server))


def read(answer):
    try:
        return b"".join(answer.chunks())
    finally:
        answer.close()


# --- requests ---


def test_a_request_says_who_it_is_and_takes_no_compression(server, client):
    server.add("/file", CONTENT)
    assert read(client.request("GET", f"{server.url}/file")) == CONTENT
    headers = server.requests[0].headers
    assert headers["User-Agent"].startswith("clipctl")
    assert headers["Accept-Encoding"] == "identity"


def test_head_has_headers_and_no_body(server, client):
    server.add("/file", CONTENT)
    answer = client.request("HEAD", f"{server.url}/file")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(CONTENT)))
    answer.close()
    assert server.requests[0].method == "HEAD"


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "http:///x", "", "file:///etc/passwd"])
def test_what_is_no_web_address_is_refused_before_anything_is_sent(client, url):
    with pytest.raises(SpecError, match="not an http"):
        client.request("GET", url)


def test_offline_ends_before_anything_is_sent(server, tmp_path):
    client = HttpClient(fetch_settings(tmp_path, server, offline=True))
    with pytest.raises(OfflineError, match="switched off") as caught:
        client.request("GET", f"{server.url}/file")
    assert isinstance(caught.value, MissingError)
    assert server.requests == []


def test_connections_are_used_again(server, client):
    server.add("/file", CONTENT)
    for _ in range(3):
        read(client.request("GET", f"{server.url}/file"))
    (pool,) = [client._pool(server.url).connection_from_url(server.url)]
    assert pool.num_connections == 1
    assert pool.num_requests == 3


# --- redirects ---


def test_headers_of_redirects_are_kept_in_order(server, client):
    server.add("/a", b"", redirect="/b", headers={"X-Repo-Commit": "first", "X-One": "1"})
    server.add("/b", b"", redirect="/c", headers={"X-Repo-Commit": "second"})
    server.add("/c", CONTENT, headers={"X-Last": "3"})
    answer = client.request("GET", f"{server.url}/a")
    assert answer.url == f"{server.url}/c"
    assert [hop["X-Repo-Commit"] for hop in answer.hops] == ["first", "second"]
    assert answer.first_header("X-Repo-Commit") == "first"
    assert answer.first_header("X-Last") == "3"
    assert answer.first_header("X-None") is None
    assert read(answer) == CONTENT


def test_a_redirect_to_another_host_may_be_the_answer(server, client):
    server.add("/a", b"", redirect="http://elsewhere.invalid/b", headers={"X-Repo-Commit": "c"})
    answer = client.request("HEAD", f"{server.url}/a", leave_host=False)
    assert (answer.status, answer.first_header("X-Repo-Commit")) == (302, "c")
    answer.close()


def test_a_redirect_on_the_host_is_followed_even_if_it_may_not_be_left(server, client):
    server.add("/old", b"", redirect="/new")
    server.add("/new", CONTENT)
    answer = client.request("HEAD", f"{server.url}/old", leave_host=False)
    assert answer.status == 200
    answer.close()


def test_a_redirect_from_https_to_http_is_refused():
    with pytest.raises(UnavailableError, match="without encryption"):
        HttpClient._check_redirect("https://host/a", "http://host/a", 1)
    HttpClient._check_redirect("https://host/a", "https://other/a", 1)
    HttpClient._check_redirect("http://host/a", "http://other/a", 1)


def test_a_token_that_was_dropped_does_not_come_back(server, client):
    """Away from the hub and back again: the second answer could be somebody else's."""
    with serving() as elsewhere:
        elsewhere.add("/b", b"", redirect=f"{server.url}/c")
        server.add("/a", b"", redirect=f"{elsewhere.url}/b")
        server.add("/c", CONTENT)
        read(client.request("GET", f"{server.url}/a", {"Authorization": "Bearer t"}))
        assert "Authorization" in server.asked("/a")[0].headers
        assert "Authorization" not in elsewhere.asked("/b")[0].headers
        assert "Authorization" not in server.asked("/c")[0].headers


# --- proxies ---


def test_the_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    server.add("/w.pt", CONTENT)
    client = HttpClient(fetch_settings(tmp_path))
    assert read(client.request("GET", "http://weights.invalid/w.pt")) == CONTENT
    assert server.requests[0].headers["Host"] == "weights.invalid"


def test_hosts_that_need_no_proxy_are_asked_directly(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.add("/w.pt", CONTENT)
    assert read(HttpClient(fetch_settings(tmp_path)).request("GET", f"{server.url}/w.pt")) == CONTENT


# --- errors ---


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524])
def test_passing_failures(status):
    assert isinstance(httperrors.of_status(status, {}, "https://host/f"), TransientError)


@pytest.mark.parametrize("status", [400, 402, 405, 409, 411, 416, 418, 422, 451, 501, 505])
def test_failures_that_do_not_pass(status):
    error = httperrors.of_status(status, {}, "https://host/f")
    assert isinstance(error, UnavailableError)
    assert not isinstance(error, TransientError)


@pytest.mark.parametrize("status", [401, 403, 407])
def test_refusals(status):
    error = httperrors.of_status(status, {}, "https://host/f")
    assert isinstance(error, PermissionDeniedError)
    assert str(status) in error.problem
    assert "HF_TOKEN" in error.hint


@pytest.mark.parametrize(("status", "code"), [(404, ""), (410, ""), (404, "EntryNotFound")])
def test_files_that_do_not_exist(status, code):
    headers = {"X-Error-Code": code} if code else {}
    assert isinstance(httperrors.of_status(status, headers, "https://h/f"), httperrors.NotInRepositoryError)


@pytest.mark.parametrize("code", ["RepoNotFound", "RevisionNotFound"])
def test_other_things_that_do_not_exist_are_not_taken_for_files(code):
    error = httperrors.of_status(404, {"X-Error-Code": code}, "https://h/f")
    assert isinstance(error, MissingError)
    assert not isinstance(error, httperrors.NotInRepositoryError)


def test_what_the_server_says_is_told_but_not_at_any_length():
    error = httperrors.of_status(403, {"X-Error-Message": "because " * 100}, "https://h/f")
    assert "because because" in error.problem
    assert len(error.problem) < 400


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError("reset"), TimeoutError("timed out"), OSError("unreachable"), ValueError("bad header")],
)
def test_broken_connections_may_mend(error):
    found = httperrors.of_connection(error, "https://host/f?sig=secret")
    assert isinstance(found, TransientError)
    assert type(error).__name__ in found.problem
    assert "secret" not in found.problem


def test_a_connection_that_was_never_made_is_told_apart_from_one_that_broke(server, tmp_path):
    client = HttpClient(fetch_settings(tmp_path))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and held, or another process might listen there
        with pytest.raises(TransientError) as caught:
            client.request("GET", f"http://127.0.0.1:{probe.getsockname()[1]}/f")
    assert caught.value.unreachable
    assert not httperrors.of_connection(ConnectionResetError("reset"), "https://h/f").unreachable


# --- origins ---


def test_an_origin_tells_size_version_and_promise(server, client):
    sha256 = "ab" * 32
    server.add("/file", CONTENT, etag='"v1"', headers={"X-Linked-Etag": f'"{sha256}"'})
    opened = HttpOrigin(client, f"{server.url}/file?secret=1").open(0, None)
    assert (opened.start, opened.total, opened.validator) == (0, len(CONTENT), '"v1"')
    assert opened.promised.sha256 == sha256
    assert b"".join(opened.chunks) == CONTENT
    opened.close()
    assert HttpOrigin(client, f"{server.url}/file?secret=1").where == f"{server.url}/file"


def test_an_origin_goes_on_where_it_is_told(server, client):
    server.add("/file", CONTENT, etag='"v1"')
    opened = HttpOrigin(client, f"{server.url}/file").open(4000, '"v1"')
    assert (opened.start, opened.total) == (4000, len(CONTENT))
    assert b"".join(opened.chunks) == CONTENT[4000:]
    opened.close()


@pytest.mark.parametrize(("offset", "validator"), [(4000, '"old"'), (4000, None), (99_999, '"v1"')])
def test_an_origin_starts_over_if_it_cannot(server, client, offset, validator):
    server.add("/file", CONTENT, etag='"v1"')
    opened = HttpOrigin(client, f"{server.url}/file").open(offset, validator)
    assert opened.start == 0
    assert b"".join(opened.chunks) == CONTENT
    opened.close()


def test_a_range_that_nobody_asked_for_is_refused(server, client):
    server.add("/file", CONTENT, etag='"v1"', headers={"Content-Range": "bytes 1-5/10000"})
    with pytest.raises(UnavailableError, match="another range"):
        HttpOrigin(client, f"{server.url}/file").open(4000, '"v1"')


def test_a_body_that_ends_early_is_noticed(server, client):
    server.add("/file", CONTENT, faults=[Fault(cut_after=4000)])
    opened = HttpOrigin(client, f"{server.url}/file").open(0, None)
    got = []
    with pytest.raises(TransientError):
        got.extend(opened.chunks)
    opened.close()


@pytest.mark.parametrize(
    ("header", "bare"), [('"abc"', "abc"), ('W/"abc"', "abc"), ("abc", "abc"), ('""', ""), ('"a"b"', 'a"b')]
)
def test_bare_etags(header, bare):
    assert bare_etag(header) == bare

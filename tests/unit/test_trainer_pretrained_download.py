"""Downloads from a real server that cuts, stalls, damages, refuses and redirects."""

import errno
import hashlib
import os
import socket

import pytest

from clip_testkit.fetching import fetch_settings
from clip_testkit.weightserver import Fault, serving
from clip_trainer.pretrained.digests import Expected
from clip_trainer.pretrained.download import download
from clip_trainer.pretrained.httpclient import HttpClient
from clip_trainer.pretrained.origins import HttpOrigin
from clipctl.contract.errors import (
    CannotCreateError,
    CorruptError,
    ExitCode,
    MissingError,
    PermissionDeniedError,
    UnavailableError,
)

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(name="server")
def _server():
    with serving() as server:
        yield server


@pytest.fixture(name="get")
def _get(server, tmp_path):
    """Download `/file` of the server to `tmp_path/out/file`."""

    def get(path="/file", sha256=SHA256, size=None, progress=None, **overrides):
        settings = fetch_settings(tmp_path, server, **overrides)
        origin = HttpOrigin(HttpClient(settings), server.url + path)
        target = tmp_path / "out" / "file"
        callback = progress.append if progress is not None else (lambda _: None)
        digest = download(origin, target, Expected(sha256=sha256, size=size), settings, callback)
        return target, digest, settings.clock

    return get


def left_behind(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").rglob("*"))


def test_a_file_arrives_whole_with_progress_and_digest(server, get, tmp_path):
    server.add("/file", CONTENT)
    progress = []
    target, digest, clock = get(progress=progress)
    assert target.read_bytes() == CONTENT
    assert digest == SHA256
    assert left_behind(tmp_path) == ["file"]
    assert (progress[-1].done, progress[-1].total) == (len(CONTENT), len(CONTENT))
    assert [step.done for step in progress] == sorted({step.done for step in progress})
    assert clock.slept == []


@pytest.mark.parametrize("digits", [8, 64])
def test_a_wrong_digest_is_corrupt_and_leaves_nothing(server, get, tmp_path, digits):
    server.add("/file", b"x" + CONTENT[1:])
    with pytest.raises(CorruptError, match=SHA256[:digits]) as caught:
        get(sha256=SHA256[:digits])
    assert caught.value.code == ExitCode.CORRUPT == 65
    assert left_behind(tmp_path) == []
    assert len(server.requests) == 1


def test_a_wrong_size_is_corrupt_too(server, get, tmp_path):
    server.add("/file", CONTENT)
    with pytest.raises(CorruptError, match="bytes instead of 5"):
        get(sha256=None, size=5)
    assert left_behind(tmp_path) == []


def test_an_existing_file_survives_a_corrupt_download(server, get, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_bytes(b"old")
    server.add("/file", b"damaged")
    with pytest.raises(CorruptError):
        get()
    assert (tmp_path / "out" / "file").read_bytes() == b"old"


def test_a_cut_connection_is_resumed_where_it_broke(server, get):
    server.add("/file", CONTENT, faults=[Fault(cut_after=1_000_000), Fault(cut_after=700_000)])
    target, _, clock = get()
    assert target.read_bytes() == CONTENT
    first, second, third = server.asked("/file")
    assert "Range" not in first.headers
    assert second.headers["Range"] == "bytes=1000000-"
    assert second.headers["If-Range"] == server.files["/file"].etag
    assert third.headers["Range"] == "bytes=1700000-"
    assert len(clock.slept) == 2


def test_a_stalled_connection_is_dropped_and_resumed(server, get):
    # Several times: on a busy machine an answer may not even have begun in so short a time.
    server.add("/file", CONTENT, faults=[Fault(stall_after=500_000)] * 4)
    target, _, _ = get(read_timeout=0.3)
    assert target.read_bytes() == CONTENT
    assert len(server.asked("/file")) >= 5
    assert any(request.headers.get("Range", "").startswith("bytes=") for request in server.asked("/file"))


def test_giving_up_keeps_what_arrived_for_the_next_time(server, get, tmp_path):
    server.add("/file", CONTENT, faults=[Fault(cut_after=1_000_000), *[Fault(status=503)] * 20])
    with pytest.raises(UnavailableError, match="gave up after 30 s without progress") as caught:
        get()
    assert caught.value.code == ExitCode.UNAVAILABLE
    assert left_behind(tmp_path) == [".file.part", ".file.part.json"]
    server.files["/file"].faults.clear()
    server.requests.clear()
    target, _, _ = get()
    assert target.read_bytes() == CONTENT
    assert [request.headers["Range"] for request in server.requests] == ["bytes=1000000-"]
    assert left_behind(tmp_path) == ["file"]


def test_a_file_that_changed_in_between_starts_over(server, get, tmp_path):
    server.add("/file", b"y" * len(CONTENT), faults=[Fault(cut_after=1_000_000), *[Fault(status=503)] * 20])
    with pytest.raises(UnavailableError):
        get()
    server.add("/file", CONTENT)
    assert get()[0].read_bytes() == CONTENT


def test_a_damaged_part_of_an_earlier_process_costs_one_more_attempt(server, get, tmp_path):
    server.add("/file", CONTENT, faults=[Fault(cut_after=1_000_000), *[Fault(status=503)] * 20])
    with pytest.raises(UnavailableError):
        get()
    part = tmp_path / "out" / ".file.part"
    part.write_bytes(b"?" + part.read_bytes()[1:])
    server.files["/file"].faults.clear()
    assert get()[0].read_bytes() == CONTENT
    assert left_behind(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "notes", ["not json", "[]", '{"source": "elsewhere", "validator": "x"}', '{"validator": null}']
)
def test_a_part_that_cannot_be_placed_is_not_used(server, get, tmp_path, notes):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".file.part").write_bytes(b"?" * 5_000_000)
    (tmp_path / "out" / ".file.part.json").write_text(notes)
    server.add("/file", CONTENT)
    assert get()[0].read_bytes() == CONTENT
    assert "Range" not in server.requests[0].headers


def test_without_an_etag_a_broken_download_starts_over_and_ends(server, get):
    server.add("/file", CONTENT, etag=None, faults=[Fault(cut_after=1_000_000)])
    assert get()[0].read_bytes() == CONTENT
    assert "Range" not in server.asked("/file")[1].headers


def test_starting_over_again_and_again_is_no_progress(server, get):
    server.add("/file", CONTENT, etag=None, faults=[Fault(cut_after=1_000_000)] * 100)
    with pytest.raises(UnavailableError, match="gave up"):
        get()
    assert len(server.requests) < 20


def test_a_weak_etag_is_not_used_to_resume(server, get):
    server.add("/file", CONTENT, etag='W/"weak"', faults=[Fault(cut_after=1_000_000)])
    assert get()[0].read_bytes() == CONTENT
    assert "Range" not in server.asked("/file")[1].headers


def test_a_server_without_ranges_sends_everything_again(server, get):
    server.add("/file", CONTENT, ranges=False, faults=[Fault(cut_after=1_000_000)])
    assert get()[0].read_bytes() == CONTENT


def test_a_shorter_file_of_the_same_name_is_read_from_its_start(server, get, tmp_path):
    etag = '"same"'
    server.add("/file", CONTENT + CONTENT, etag=etag, faults=[Fault(cut_after=5_000_000), *[Fault(status=503)] * 20])
    with pytest.raises(UnavailableError):
        get()
    server.add("/file", CONTENT, etag=etag)  # the server answers 416 to the range
    assert get()[0].read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (401, PermissionDeniedError, 77),
        (403, PermissionDeniedError, 77),
        (407, PermissionDeniedError, 77),
        (404, MissingError, 66),
        (410, MissingError, 66),
        (400, UnavailableError, 69),
    ],
)
def test_a_refusal_is_reported_at_once_as_what_it_is(server, get, status, error, code):
    server.add("/file", CONTENT, faults=[Fault(status=status)] * 3)
    with pytest.raises(error) as caught:
        get()
    assert caught.value.code == code
    assert type(caught.value).default_code == code
    assert len(server.requests) == 1
    assert caught.value.hint


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(server, get, status):
    server.add("/file", CONTENT, faults=[Fault(status=status)] * 3)
    target, _, clock = get()
    assert target.read_bytes() == CONTENT
    assert clock.slept == [0.5, 1.0, 2.0]


def test_the_server_may_say_how_long_to_wait(server, get):
    server.add("/file", CONTENT, faults=[Fault(status=429, headers={"Retry-After": "7"})])
    assert get()[2].slept == [7.0]


def test_a_server_that_asks_for_more_than_the_limit_ends_it(server, get):
    server.add("/file", CONTENT, faults=[Fault(status=503, headers={"Retry-After": "3000"})])
    with pytest.raises(UnavailableError, match="status 503"):
        get()


def test_nobody_listening_is_unavailable(tmp_path):
    settings = fetch_settings(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and held, or another process might listen there
        origin = HttpOrigin(HttpClient(settings), f"http://127.0.0.1:{probe.getsockname()[1]}/file")
        with pytest.raises(UnavailableError, match="refused") as caught:
            download(origin, tmp_path / "file", Expected(), settings)
    assert "network" in caught.value.hint


def test_a_redirect_is_followed_without_the_token(server, tmp_path):
    with serving() as elsewhere:
        elsewhere.add("/bytes", CONTENT)
        server.add("/file", b"", redirect=f"{elsewhere.url}/bytes")
        settings = fetch_settings(tmp_path, server)
        origin = HttpOrigin(HttpClient(settings), f"{server.url}/file", {"Authorization": "Bearer secret"})
        download(origin, tmp_path / "file", Expected(sha256=SHA256), settings)
        assert server.requests[0].headers["Authorization"] == "Bearer secret"
        assert "Authorization" not in elsewhere.requests[0].headers


def test_a_redirect_on_the_same_host_keeps_the_token(server, tmp_path):
    server.add("/new", CONTENT)
    server.add("/file", b"", redirect="/new")
    settings = fetch_settings(tmp_path, server)
    origin = HttpOrigin(HttpClient(settings), f"{server.url}/file", {"Authorization": "Bearer secret"})
    download(origin, tmp_path / "file", Expected(sha256=SHA256), settings)
    assert server.asked("/new")[0].headers["Authorization"] == "Bearer secret"


def test_redirects_in_circles_end(server, get):
    server.add("/file", b"", redirect="/file")
    with pytest.raises(UnavailableError, match="circles"):
        get()


def test_content_that_was_compressed_on_the_way_is_refused(server, get):
    server.add("/file", CONTENT, headers={"Content-Encoding": "gzip"})
    with pytest.raises(UnavailableError, match="compressed"):
        get()


def test_a_promised_digest_is_checked_even_if_none_was_known(server, get, tmp_path):
    server.add("/file", CONTENT, headers={"X-Linked-Etag": f'"{"0" * 64}"'})
    with pytest.raises(CorruptError, match="0000"):
        get(sha256=None)
    assert left_behind(tmp_path) == []


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_read(server, get, tmp_path, monkeypatch):
    server.add("/file", CONTENT)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("clip_trainer.pretrained.download.shutil.disk_usage", lambda _: usage)
    with pytest.raises(CannotCreateError, match="1000 bytes free") as caught:
        get()
    assert caught.value.code == ExitCode.CANNOT_CREATE


def test_a_disk_that_fills_up_is_told_as_that(server, get, monkeypatch):
    server.add("/file", CONTENT)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clip_trainer.pretrained.partial.os.write", full)
    with pytest.raises(CannotCreateError, match="the disk is full"):
        get()


def test_a_directory_that_may_not_be_written_is_told_as_that(server, get, tmp_path, monkeypatch):
    server.add("/file", CONTENT)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("clip_trainer.pretrained.partial.os.open", refuse)
    with pytest.raises(PermissionDeniedError, match="no permission to write"):
        get()


def test_the_bytes_are_on_the_disk_before_the_name_is(server, get, monkeypatch):
    """A crash between the two must not leave a name for bytes that were never written."""
    server.add("/file", CONTENT)
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("clip_trainer.pretrained.partial.os.fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(
        "clip_trainer.pretrained.partial.os.replace", lambda *names: (events.append("rename"), replace(*names))
    )
    get()
    assert events == ["fsync", "rename", "fsync"]

"""Gathering from real servers on the loopback interface that do what servers of the web do, and being killed at it."""

import csv
import hashlib
import io
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from types import SimpleNamespace

import pytest
import webdataset

from clip_testkit.imageserver import (
    Page,
    cut_chunk,
    drip,
    drip_head,
    endless,
    reset,
    serving_images,
    truncated,
)
from clip_testkit.shards import png
from clip_trainer.data.gather.exchange import Limits
from clip_trainer.data.gather.fetch import Acceptance
from clip_trainer.data.gather.gather import GatherOptions, gather
from clip_trainer.data.gather.retry import RetryRule
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.index.verify import verify_dataset
from clip_trainer.data.storage.source_local import LocalSource
from clip_trainer.data.writing.image_resize import Resize
from clipctl.contract.errors import CannotCreateError, MissingError, SpecError

PATIENT = Limits(connect=60.0, read=60.0, total=120.0)
AT_ONCE = RetryRule(retries=2, base=0.0)
ROBOTS = b"User-agent: *\nDisallow: /private/\n"


@pytest.fixture
def server():
    with serving_images() as running:
        yield running


def write_table(path, urls, captions=None):
    captions = captions or [f"picture {number}" for number in range(len(urls))]
    path.write_text("".join(f"{caption}\t{url}\n" for caption, url in zip(captions, urls, strict=True)))
    return path


def run(tmp_path, urls, out="out", *, captions=None, **options):
    """Gather, and the results by path of the address."""
    table = write_table(tmp_path / "table.tsv", urls, captions)
    options = {"allow_private": True, "limits": PATIENT, "retry": AT_ONCE, "concurrency": 8, **options}
    summary = gather(table, str(tmp_path / out), GatherOptions(**options))
    return summary, results(tmp_path / out)


def results(out):
    texts = (path.read_text() for path in sorted(out.glob("*.csv")))
    return [row for text in texts for row in csv.DictReader(io.StringIO(text, newline=""))]


def samples(out):
    """webdataset's own reading; files are opened here because it leaves them to the garbage collector."""
    found = []
    for path in sorted(out.glob("*.tar")):
        with path.open("rb") as stream:
            files = webdataset.tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
            found += list(webdataset.tariterators.group_by_keys(files))
    return found


def content(out):
    """Everything in a directory byte by byte, but of the index (which knows times of files) what it identifies."""
    files = (path for path in sorted(out.iterdir()) if not path.name.startswith(("index", ".")))
    found = {path.name: path.read_bytes() for path in files}
    return found | {"index": open_dataset(str(out), build=False).identity.encode()}


def bomb(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


GOOD = png(1)
# The answer, and what is to become of the row.
WEB = {
    "/ok.png": (Page(GOOD), "ok", 1),
    "/wrong-type": (Page(GOOD, headers={"Content-Type": "text/html"}), "ok", 1),
    "/moved": (Page(status=301, headers={"Location": "/ok.png"}), "ok", 1),
    "/500-then-200": (Page(GOOD, before=(Page(status=500),)), "ok", 2),
    "/429": (Page(GOOD, before=(Page(status=429, headers={"Retry-After": "0"}),)), "ok", 2),
    "/reset-then-200": (Page(GOOD, before=(Page(send=reset),)), "ok", 2),
    "/other-agent": (Page(GOOD, headers={"X-Robots-Tag": "otherbot: noai"}), "ok", 1),
    "/404": (Page(status=404), "http-404", 1),
    "/410": (Page(b"gone", status=410), "http-410", 1),
    "/204": (Page(status=204), "http-204", 1),
    "/always-503": (Page(status=503), "http-503", 3),
    "/429-for-long": (Page(status=429, headers={"Retry-After": "86400"}), "http-429", 1),
    "/truncated": (Page(GOOD, send=truncated), "truncated", 3),
    "/cut-chunk": (Page(GOOD, send=cut_chunk), "truncated", 3),
    "/reset": (Page(send=reset), "connection", 3),
    "/endless": (Page(GOOD, send=endless), "too-large", 1),
    "/huge": (Page(bytes(70_000)), "too-large", 1),
    "/html": (Page(b"<html>please log in</html>", headers={"Content-Type": "image/png"}), "not-an-image", 1),
    "/empty": (Page(b""), "not-an-image", 1),
    "/gif": (Page(b"GIF89a\x08\0\x08\0" + bytes(20)), "unsupported-format", 1),
    "/bomb": (Page(bomb(60_000, 60_000)), "too-many-pixels", 1),
    "/broken": (Page(GOOD[:20]), "broken-image", 1),
    "/loop": (Page(status=302, headers={"Location": "/loop"}), "redirect", 6),
    "/to-file": (Page(status=302, headers={"Location": "file:///etc/passwd"}), "redirect", 1),
    "/to-nowhere": (Page(status=302), "redirect", 1),
    "/opt-out": (Page(GOOD, headers={"X-Robots-Tag": "nofollow\nnoai, noimageai"}), "opt-out", 1),
    "/private/x.png": (Page(GOOD), "robots", 0),
    "/to-private": (Page(status=302, headers={"Location": "/private/x.png"}), "robots", 1),
}


def test_a_web_as_it_is(server, tmp_path):
    server.pages = {path: page for path, (page, _, _) in WEB.items()} | {"/robots.txt": Page(ROBOTS)}
    urls = [server.url + path for path in WEB] + ["not an address", "http://does-not-exist.invalid/x.png"]
    summary, rows = run(tmp_path, urls, per_host=8, acceptance=Acceptance(max_bytes=65_536))

    expected = [status for _, status, _ in WEB.values()] + ["bad-url", "dns"]
    assert [row["status"] for row in rows] == expected
    assert [row["url"] for row in rows] == urls
    asked = server.paths()
    redirected = {"/ok.png": 2}  # itself, and as the target of /moved
    assert {path: asked[path] for path in WEB} == {path: redirected.get(path, n) for path, (_, _, n) in WEB.items()}
    assert asked["/robots.txt"] == 1
    assert {request.headers["User-Agent"] for request in server.asked} == {"clipctl"}

    images = [number for number, status in enumerate(expected) if status == "ok"]
    assert (summary.rows, summary.images, summary.fetched) == (len(urls), len(images), len(urls))
    assert sum(summary.failures.values()) == len(urls) - len(images)
    found = samples(tmp_path / "out")
    assert [sample["__key__"] for sample in found] == [f"{number:09d}" for number in images]
    assert {sample["png"] for sample in found} == {GOOD}
    assert [sample["txt"].decode() for sample in found] == [f"picture {number}" for number in images]
    assert [json.loads(sample["json"])["url"] for sample in found] == [urls[number] for number in images]
    assert verify_dataset(str(tmp_path / "out"), deep=True).ok


def test_without_leave_nothing_private_is_connected_to(server, tmp_path):
    server.pages = {"/x.png": Page(GOOD)}
    port = server.url.rpartition(":")[2]
    hosts = ["127.0.0.1", "localhost", "127.1", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0"]
    with pytest.raises(MissingError, match=r"No image of .* could be had"):
        run(tmp_path, [f"http://{host}:{port}/x.png" for host in hosts], allow_private=False)
    assert {row["status"] for row in results(tmp_path / "out")} == {"private-address"}
    assert not server.asked


def test_a_redirect_to_a_private_address_is_not_followed(server, tmp_path, monkeypatch):
    """One loopback address stands for the open internet; what it redirects to is judged as usual."""
    with serving_images("127.0.0.2") as inside:
        inside.pages = {"/secret.png": Page(GOOD)}
        server.pages = {
            "/x.png": Page(status=302, headers={"Location": f"{inside.url}/secret.png"}),
            "/ok.png": Page(GOOD),
        }
        monkeypatch.setattr("clip_trainer.data.gather.gather.is_public", lambda address: address == "127.0.0.1")
        _, rows = run(tmp_path, [f"{server.url}/x.png", f"{server.url}/ok.png"], allow_private=False)
        assert [row["status"] for row in rows] == ["private-address", "ok"]
        assert not inside.asked


def test_the_deadline_holds_for_bodies_and_headers_that_drip(server, tmp_path, monkeypatch):
    """Each read is answered in time, so only the deadline of the whole exchange can end it."""
    late = [0.0]
    # Time passes where something drips: with a deadline in real time, a busy machine misses it for good answers too.
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late[0])
    monkeypatch.setattr("clip_trainer.data.gather.transport.time", clock)

    def slowly(send):
        def answer(handler, page):
            late[0] += PATIENT.total
            send(handler, page)

        return answer

    server.pages = {
        "/body": Page(GOOD, send=slowly(drip)),
        "/head": Page(send=slowly(drip_head)),
        "/ok.png": Page(GOOD),
    }
    urls = [f"{server.url}/{name}" for name in ("body", "head", "ok.png")]
    summary, rows = run(tmp_path, urls, concurrency=1)
    assert [row["status"] for row in rows] == ["timeout", "timeout", "ok"]
    assert summary.failures == {"timeout": 2}
    assert server.paths() == {"/robots.txt": 1, "/body": 3, "/head": 3, "/ok.png": 1}


def test_a_server_that_says_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.png"
        limits, rule = Limits(60.0, 0.3, 600.0), RetryRule(retries=0)
        # No other server beside it: on a busy machine, that one might not answer in so short a time either.
        with pytest.raises(MissingError, match="1 timeout"):
            run(tmp_path, [url], limits=limits, retry=rule)
    (row,) = results(tmp_path / "out")
    assert (row["status"], row["error"]) == ("timeout", "robots.txt: the answer took too long")


def test_limits_of_hosts_hold_by_the_count_of_the_server(server, tmp_path):
    with serving_images("127.0.0.2") as other:
        for one in (server, other):
            one.pages = {f"/{number}.png": Page(png(number), hold=0.02) for number in range(30)}
        urls = [f"{one.url}/{number}.png" for number in range(30) for one in (server, other)]
        summary, _ = run(tmp_path, urls, per_host=3, concurrency=16)
        assert summary.images == 60
        assert (server.most_at_once, other.most_at_once) == (3, 3)


def test_requests_to_a_host_keep_their_distance(server, tmp_path):
    times = []
    server.on_request = lambda number: times.append(time.monotonic())
    server.pages = {"/robots.txt": Page(status=404)} | {f"/{number}.png": Page(png(number)) for number in range(5)}
    began = time.monotonic()
    run(tmp_path, [f"{server.url}/{number}.png" for number in range(5)], host_delay=0.3)
    assert len(times) == 6, "and one for robots.txt"
    # The client spaces its starts; the server sees each with a delay of its own, perhaps the first with the longest.
    assert max(times) - began >= 4 * 0.3


def test_retry_after_keeps_the_whole_host_waiting(server, tmp_path):
    times = {}
    server.on_request = lambda number: times.setdefault(number, time.monotonic())
    busy = Page(status=429, headers={"Retry-After": "1"})
    server.pages = {f"/{number}.png": Page(png(number)) for number in range(4)}
    server.pages["/0.png"] = Page(png(0), before=(busy,))
    summary, _ = run(tmp_path, [f"{server.url}/{number}.png" for number in range(4)], per_host=1)
    assert summary.images == 4
    assert [request.path for request in server.asked[:2]] == ["/robots.txt", "/0.png"]
    assert times[3] - times[2] > 0.9


def test_opt_outs_can_be_chosen(server, tmp_path):
    server.pages = {"/x.png": Page(GOOD, headers={"X-Robots-Tag": "noai"})}
    summary, _ = run(tmp_path, [f"{server.url}/x.png"], acceptance=Acceptance(opt_out={"noindex"}))
    assert summary.images == 1


def test_images_can_be_made_smaller_on_the_way(server, tmp_path):
    large, small = png(3, size=64), png(4)
    server.pages = {"/large.png": Page(large), "/small.png": Page(small), "/bad.png": Page(large[:99])}
    urls = [f"{server.url}/{name}.png" for name in ("large", "small", "bad")]
    _, rows = run(tmp_path, urls, acceptance=Acceptance(resize=Resize(16)))
    assert [(row["status"], row["width"]) for row in rows] == [("ok", "16"), ("ok", "8"), ("broken-image", "")]
    resized, kept = samples(tmp_path / "out")
    described = json.loads(resized["json"])
    assert (described["width"], described["original_width"]) == (16, 64)
    assert described["sha256"] == hashlib.sha256(large).hexdigest()
    assert resized["jpg"].startswith(b"\xff\xd8")
    assert kept["png"] == small
    with pytest.raises(CannotCreateError, match="resize"):
        run(tmp_path, urls)


def test_strange_rows(server, tmp_path):
    server.pages = {f"/{number}.png": Page(png(number)) for number in range(3)} | {"/b%C3%BC%20x.png": Page(png(7))}
    table = tmp_path / "table.tsv"
    lines = [
        b"caf\xe9 at night\tU/0.png",
        b"\tU/1.png",
        b"a\tb\tU/1.png",
        b"twice\tU/2.png",
        b"twice\tU/2.png",
        "ü\tU/bü x.png".encode(),
    ]
    table.write_bytes(b"\n".join(line.replace(b"U/", server.url.encode() + b"/") for line in lines))
    out = tmp_path / "out"
    summary = gather(table, str(out), GatherOptions(allow_private=True, limits=PATIENT))
    assert [row["status"] for row in results(out)] == ["ok", "no-caption", "bad-url", "ok", "ok", "ok"]
    assert (summary.images, summary.failures) == (4, {"bad-url": 1, "no-caption": 1})
    captions = [sample["txt"].decode() for sample in samples(out)]
    assert captions == ["caf\ufffd at night", "twice", "twice", "ü"]
    assert [sample["png"] for sample in samples(out)] == [png(0), png(2), png(2), png(7)]


def many(server, count=40):
    """A web of `count` images, every seventh missing; addresses of its table."""
    server.pages = {f"/{number}.png": Page(png(number)) for number in range(count) if number % 7}
    return [f"{server.url}/{number}.png" for number in range(count)]


def test_the_result_does_not_depend_on_the_order_of_arrival(server, tmp_path):
    urls = many(server)
    run(tmp_path, urls, "one", concurrency=1, rows_per_shard=9)
    server.pages = {
        path: Page(page.body, hold=0.001 * (number % 5)) for number, (path, page) in enumerate(server.pages.items())
    }
    run(tmp_path, urls, "many", concurrency=16, per_host=16, rows_per_shard=9)
    assert content(tmp_path / "one") == content(tmp_path / "many")
    assert len(list((tmp_path / "one").glob("*.tar"))) == 5


def test_a_finished_place_is_left_as_it_is(server, tmp_path):
    urls = many(server)
    first, _ = run(tmp_path, urls, rows_per_shard=9)
    before = content(tmp_path / "out")
    server.forget()
    again, _ = run(tmp_path, urls, rows_per_shard=9)
    assert not server.asked
    assert content(tmp_path / "out") == before
    assert (again.fetched, again.images, again.failures) == (0, first.images, first.failures)
    assert again.identity == first.identity


def test_failed_rows_are_fetched_again_on_demand_and_no_others(server, tmp_path):
    urls = many(server)
    whole = {f"/{number}.png": Page(png(number)) for number in range(40)}
    first, _ = run(tmp_path, urls, rows_per_shard=9)
    assert first.failures == {"http-404": 6}
    server.pages = whole
    server.forget()
    second, _ = run(tmp_path, urls, rows_per_shard=9, retry_failed=True)
    assert {path for path in server.paths() if path != "/robots.txt"} == {f"/{n}.png" for n in range(0, 40, 7)}
    assert (second.images, second.failures, second.fetched) == (40, {}, 6)
    run(tmp_path, urls, "fresh", rows_per_shard=9)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_stale_index_of_shards_of_the_same_size_is_noticed(server, tmp_path):
    """Killed after the shards of a second attempt were there, and before their index was."""
    urls = many(server)
    run(tmp_path, urls, rows_per_shard=40)
    stale = {path: path.read_bytes() for path in (tmp_path / "out").glob("index*")}
    server.pages = {f"/{number}.png": Page(png(number)) for number in range(40)}
    done, _ = run(tmp_path, urls, rows_per_shard=40, retry_failed=True)
    good = content(tmp_path / "out")
    for path, data in stale.items():
        path.write_bytes(data)
    again, _ = run(tmp_path, urls, rows_per_shard=40)
    assert (again.images, again.fetched, done.images) == (40, 0, 40)
    assert content(tmp_path / "out") == good


def test_shards_that_are_gone_are_fetched_again(server, tmp_path):
    urls = many(server)
    run(tmp_path, urls, rows_per_shard=9)
    before = content(tmp_path / "out")
    (tmp_path / "out" / "shard-000002.tar").unlink()
    (tmp_path / "out" / "shard-000003.csv").unlink()
    (tmp_path / "out" / "index.json").unlink()
    again, _ = run(tmp_path, urls, rows_per_shard=9)
    assert again.fetched == 18
    assert content(tmp_path / "out") == before


def test_another_table_does_not_go_on(server, tmp_path):
    urls = many(server)
    run(tmp_path, urls)
    with pytest.raises(CannotCreateError, match="another table"):
        run(tmp_path, urls[::-1])
    with pytest.raises(CannotCreateError, match="rows_per_shard"):
        run(tmp_path, urls, rows_per_shard=7)
    with pytest.raises(SpecError, match="Cannot gather into"):
        run(tmp_path, urls, "out/shard-{0..9}.tar")


class Died(Exception):
    """What stands for a kill, at a place that a test chooses."""


def run_until_save(tmp_path, urls, out, number, monkeypatch, **options):
    """Gather until the `number`-th object is about to be saved; whether it came to that."""
    saved = itertools.count(1)
    save = LocalSource.save

    def dying(self, name, data, *args, **more):
        if next(saved) >= number:
            raise Died
        return save(self, name, data, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(LocalSource, "save", dying)
        try:
            run(tmp_path, urls, out, **options)
        except Died:
            return True
    return False


@pytest.mark.parametrize("retry_failed", [False, True])
def test_dying_before_any_object_is_saved_changes_nothing_in_the_end(server, tmp_path, monkeypatch, retry_failed):
    """Every border between two objects, in the first run and in the second one that tries failed rows again."""
    urls = many(server, 20)
    options = {"rows_per_shard": 6, "concurrency": 2}
    partly = server.pages
    wholly = {f"/{number}.png": Page(png(number)) for number in range(20)}
    run(tmp_path, urls, "undisturbed", **options)
    if retry_failed:
        server.pages = wholly
        run(tmp_path, urls, "undisturbed", retry_failed=True, **options)
    died = True
    for number in itertools.count(1):
        out = f"out{number}"
        if retry_failed:
            server.pages = partly
            run(tmp_path, urls, out, **options)
            server.pages = wholly
        died = run_until_save(tmp_path, urls, out, number, monkeypatch, retry_failed=retry_failed, **options)
        run(tmp_path, urls, out, retry_failed=retry_failed, **options)
        assert content(tmp_path / out) == content(tmp_path / "undisturbed"), number
        if not died:
            break
    assert number > 8, "four shards with their results, and an index"


COMMAND = [sys.executable, "-m", "clipctl", "data", "gather"]


def command(table, out, *more, **pipes):
    options = [*more, "--allow-private", "--rows-per-shard", "10", "--concurrency", "4", "--json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(out.parent / "cache")}
    return subprocess.Popen(
        [*COMMAND, str(table), str(out), *options], env=environment, stdout=subprocess.PIPE, **pipes
    )


@pytest.mark.parametrize("kills", [[3, 30], [60]])
def test_killed_and_started_again_the_result_is_that_of_an_undisturbed_run(server, tmp_path, kills):
    urls = many(server, 60)
    table = write_table(tmp_path / "table.tsv", urls)
    with command(table, tmp_path / "undisturbed") as process:
        expected = json.load(process.stdout)
    assert process.returncode == 0
    server.pages = {path: Page(page.body, hold=0.01) for path, page in server.pages.items()}
    for requests in kills:
        server.forget()
        reached = threading.Event()
        server.on_request = lambda number, requests=requests, reached=reached: number >= requests and reached.set()
        with command(table, tmp_path / "out") as process:
            assert reached.wait(60)
            process.send_signal(signal.SIGKILL)
            process.stdout.read()
    done = [path.stem for path in (tmp_path / "out").glob("*.csv")]
    server.forget()
    with command(table, tmp_path / "out") as process:
        summary = json.load(process.stdout)
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")
    assert (summary["images"], summary["failures"]) == (expected["images"], expected["failures"])
    assert summary["fetched"] == 60 - 10 * len(done), "whole shards are not fetched again"


def test_an_interrupt_ends_the_work_at_once_and_without_a_traceback(server, tmp_path):
    # The requests are kept, and waited for, far longer than the process is given to end.
    server.pages = {f"/{number}.png": Page(png(number), hold=200.0) for number in range(9)}
    table = write_table(tmp_path / "table.tsv", [f"{server.url}/{number}.png" for number in range(9)])
    reached = threading.Event()
    server.on_request = lambda number: number >= 4 and reached.set()
    patience = ("--read-timeout", "200", "--total-timeout", "200")
    # A shell lets what it runs in the background ignore the signal, and so would this process, if tests run there.
    as_by_a_user = {"stderr": subprocess.PIPE, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with command(table, tmp_path / "out", *patience, **as_by_a_user) as process:
        assert reached.wait(60)
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in error


def test_gathering_into_an_object_store(server, tmp_path, monkeypatch):
    from moto.server import ThreadedMotoServer

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    try:
        host, port = store.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        import urllib3

        urllib3.request("PUT", f"http://{host}:{port}/bucket")
        urls = many(server, 20)
        table = write_table(tmp_path / "table.tsv", urls)
        options = GatherOptions(allow_private=True, rows_per_shard=6)
        done = gather(table, "s3://bucket/set", options)
        assert (done.images, done.shards) == (17, 4)
        server.forget()
        assert gather(table, "s3://bucket/set", options).fetched == 0
        assert not server.asked
        assert verify_dataset("s3://bucket/set", deep=True).ok
        local = gather(table, str(tmp_path / "local"), options)
        assert local.bytes == done.bytes
    finally:
        store.stop()


def test_the_csv_is_one_that_others_read(server, tmp_path):
    urls = [*many(server, 5), 'http://127.0.0.1:1/a,"b"']
    run(tmp_path, urls, retry=RetryRule(retries=0))
    text = (tmp_path / "out" / "shard-000000.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["row"] for row in rows] == list("012345")
    assert rows[5]["url"] == urls[5]
    assert (rows[1]["width"], rows[1]["bytes"], rows[1]["http"]) == ("8", str(len(png(1))), "200")
    assert rows[0] == {
        "row": "0",
        "url": urls[0],
        "status": "http-404",
        "http": "404",
        "bytes": "",
        "width": "",
        "height": "",
        "error": "",
        "shard": "shard-000000.tar",
        "key": "000000000",
    }

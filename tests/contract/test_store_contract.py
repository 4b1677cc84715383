"""What `ObjectStore` promises, checked against every implementation: the same tests for files and for S3.

S3 is moto behind a real HTTP socket. moto checks a condition and stores the object in two steps; S3 does it in one, so
requests are handled one at a time.
"""

import errno
import http.server
import os
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from clip_testkit.httpfaults import close_after, first, refuse, reset_after
from clip_testkit.s3fault import fault_server
from clip_testkit.s3server import one_at_a_time, refusing_conditions, without_conditions
from clip_testkit.s3server import s3_server as running_server
from clipctl.contract import store_s3
from clipctl.contract.errors import (
    CannotCreateError,
    CorruptError,
    InternalError,
    MissingError,
    PermissionDeniedError,
    SpecError,
    UnavailableError,
)
from clipctl.contract.retrying import Retrying
from clipctl.contract.store import ObjectInfo, open_store
from clipctl.contract.store_local import LocalStore
from clipctl.contract.store_s3 import S3Store

BUCKET = "clipctl-contract"


@pytest.fixture(scope="module")
def s3_server():
    with running_server(one_at_a_time) as endpoint:
        yield endpoint


@pytest.fixture
def s3_environment(monkeypatch):
    """Point the S3 client somewhere. Tests are about what happens and not about how long: a busy machine gets all the
    time it needs, and only where no answer will ever come the budgets are `short`.
    """
    import s3fs

    def point_at(endpoint, key="testing", secret="testing", short=False):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        seconds = 1 if short else 120
        timeouts = {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"total_max_attempts": 1}}
        monkeypatch.setattr(store_s3, "_TIMEOUTS", timeouts)
        monkeypatch.setattr(store_s3, "_RETRYING", Retrying(attempts=2 if short else 5, sleep=lambda seconds: None))
        s3fs.S3FileSystem.clear_instance_cache()  # instances remember the endpoint they were made for

    yield point_at
    s3fs.S3FileSystem.clear_instance_cache()


def emptied(store):
    if not store._fs.exists(BUCKET):
        store._fs.mkdir(BUCKET)
    for info in store.list(""):
        store.delete(info.key)
    for item in store.unfinished(""):
        store.discard(item)
    return store


@pytest.fixture
def s3_store(s3_server, s3_environment):
    s3_environment(s3_server)
    return emptied(open_store(f"s3://{BUCKET}/runs/demo"))


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return open_store(str(tmp_path / "runs" / "demo"))
    return request.getfixturevalue("s3_store")


def keys(store, prefix=""):
    return [info.key for info in store.list(prefix)]


class TestReadingAndWriting:
    @pytest.mark.parametrize("data", [b"", b"x", b"\x00\xff" * 1000, os.urandom(300_000)])
    def test_what_was_written_is_read(self, store, data):
        store.write("a/b/object", data)
        assert store.read("a/b/object") == data
        assert store.list("a/") == [ObjectInfo("a/b/object", len(data))]

    def test_writing_again_replaces(self, store):
        store.write("key", b"old and longer")
        store.write("key", b"new")
        assert store.read("key") == b"new"
        assert store.list("") == [ObjectInfo("key", 3)]

    def test_reading_what_is_not_there(self, store):
        with pytest.raises(MissingError, match="nothing/here"):
            store.read("nothing/here")

    def test_an_error_names_the_store_and_no_credentials(self, store):
        with pytest.raises(MissingError) as caught:
            store.read("gone")
        assert store.root in str(caught.value)
        assert "testing" not in str(caught.value)

    def test_readers_never_see_half_an_object(self, store):
        """Two contents of different lengths alternate; every read is exactly one of them."""
        contents = (b"a" * 100_000, b"b" * 50_000)
        store.write("object", contents[0])
        done = threading.Event()

        def write():
            for turn in range(40):
                store.write("object", contents[turn % 2])
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        seen = {store.read("object") in contents}
        while not done.is_set():
            seen.add(store.read("object") in contents)
        writer.join()
        assert seen == {True}


class TestRanges:
    @pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 1000), (999, 1), (17, 400), (1000, 0), (5000, 0)])
    def test_exactly_those_bytes(self, store, start, length):
        data = os.urandom(1000)
        store.write("object", data)
        assert store.read_range("object", start, length) == data[start : start + length]

    @pytest.mark.parametrize(("start", "length"), [(0, 1001), (999, 2), (1000, 1), (5000, 10)])
    def test_an_object_that_ends_before_is_corrupt(self, store, start, length):
        store.write("object", bytes(1000))
        with pytest.raises(CorruptError, match=f"object ends before byte {start + length}"):
            store.read_range("object", start, length)

    def test_an_object_that_is_not_there(self, store):
        with pytest.raises(MissingError):
            store.read_range("nothing", 0, 1)


class TestParts:
    @pytest.mark.parametrize(
        "parts",
        [
            [],
            [b""],
            [b"abc", memoryview(b"xdefx")[1:4], b"", b"g"],
            [os.urandom(1 << 20)] * 3,
            [memoryview(os.urandom(5 << 20))] * 4 + [b"end"],
        ],
    )
    def test_the_pieces_in_order(self, store, parts):
        whole = b"".join(parts)
        store.write_parts("dir/object", iter(parts), len(whole))
        assert store.read("dir/object") == whole
        assert store.list("") == [ObjectInfo("dir/object", len(whole))]
        assert store.unfinished("") == []

    @pytest.mark.parametrize("size", [0, 9, 11, 30 << 20])
    def test_another_number_of_bytes_than_announced_stores_nothing(self, store, size):
        store.write("object", b"before")
        with pytest.raises(InternalError):
            store.write_parts("object", [b"0123456789"], size)
        assert store.read("object") == b"before"
        assert store.unfinished("") == []

    @pytest.mark.parametrize("size", [100, 20 << 20])
    def test_a_source_that_fails_stores_nothing(self, store, size):
        def pieces():
            yield bytes(size // 2)
            raise UnavailableError("gone")

        with pytest.raises(UnavailableError, match="gone"):
            store.write_parts("object", pieces(), size)
        assert store.list("") == []
        assert store.unfinished("") == []


class TestUnfinished:
    def test_a_killed_writer_leaves_something_that_can_be_discarded(self, store):
        store.write("a/done", b"1")
        begin(store, "a/big")
        begin(store, "b/big")
        (found,) = store.unfinished("a/")
        assert found.key.startswith("a/")
        assert found.begun_at > 1_200_000_000  # moto says 2010
        assert keys(store) == ["a/done"]
        for _ in range(2):
            store.discard(found)
        assert [item.key[:2] for item in store.unfinished("")] == ["b/"]
        store.discard(store.unfinished("")[0])


def begin(store, key):
    """What a writer leaves that is killed in the middle of a large object."""
    if isinstance(store, LocalStore):
        folder = os.path.dirname(f"{store.root}/{key}")
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/.tmp-abc", "wb") as file:
            file.write(b"half")
    else:
        store._call("create_multipart_upload", Key=f"{store._prefix}{key}")


class TestDeleting:
    def test_it_is_gone(self, store):
        store.write("a/b/c", b"1")
        store.write("a/b/d", b"2")
        store.delete("a/b/c")
        assert keys(store) == ["a/b/d"]
        with pytest.raises(MissingError):
            store.read("a/b/c")

    def test_deleting_again_is_no_error(self, store):
        store.delete("never/was")
        store.write("x", b"1")
        store.delete("x")
        store.delete("x")
        assert keys(store) == []

    def test_a_deleted_object_can_be_created_anew(self, store):
        assert store.create("k", b"1")
        store.delete("k")
        assert store.create("k", b"2")
        assert store.read("k") == b"2"


class TestCreate:
    def test_only_the_first_succeeds(self, store):
        assert store.create("commits/1", b"first") is True
        assert store.create("commits/1", b"second") is False
        assert store.read("commits/1") == b"first"

    def test_an_existing_object_counts_however_it_was_made(self, store):
        store.write("k", b"written")
        assert store.create("k", b"created") is False
        assert store.read("k") == b"written"

    def test_exactly_one_of_many_threads_succeeds(self, store):
        for contest in range(3):
            start = threading.Barrier(8)

            def contend(name, contest=contest, start=start):
                start.wait()
                return name if store.create(f"incarnations/{contest}", str(name).encode()) else None

            with ThreadPoolExecutor(8) as pool:
                winners = [name for name in pool.map(contend, range(8)) if name is not None]
            assert len(winners) == 1
            assert store.read(f"incarnations/{contest}") == str(winners[0]).encode()

    def test_the_losers_leave_nothing_behind(self, store):
        store.create("dir/k", b"1")
        store.create("dir/k", b"2")
        assert keys(store) == ["dir/k"]


class TestReplace:
    def test_it_needs_the_version_that_was_read(self, store):
        store.write("LATEST", b"one")
        data, version = store.read_version("LATEST")
        assert data == b"one"
        assert store.replace("LATEST", b"two", version) is True
        assert store.replace("LATEST", b"three", version) is False
        assert store.read("LATEST") == b"two"

    def test_there_is_no_version_of_nothing(self, store):
        assert store.read_version("LATEST") is None

    def test_replacing_what_is_gone_fails(self, store):
        store.write("LATEST", b"one")
        _, version = store.read_version("LATEST")
        store.delete("LATEST")
        assert store.replace("LATEST", b"two", version) is False
        assert keys(store) == []

    def test_no_update_is_lost(self, store):
        """Threads count up by compare-and-swap; the sum shows whether two ever built on the same version."""
        store.write("counter", b"0")

        def count(_):
            for _ in range(5):
                while True:
                    data, version = store.read_version("counter")
                    if store.replace("counter", str(int(data) + 1).encode(), version):
                        break

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(count, range(4)))
        assert store.read("counter") == b"20"


class TestList:
    def test_it_is_sorted_and_filtered_by_prefix(self, store):
        for key in ("b/2", "a/1", "b/1", "bb/1", "c"):
            store.write(key, b"")
        assert keys(store) == ["a/1", "b/1", "b/2", "bb/1", "c"]
        assert keys(store, "b/") == ["b/1", "b/2"]
        assert keys(store, "b") == ["b/1", "b/2", "bb/1"]
        assert keys(store, "b/2") == ["b/2"]

    def test_a_prefix_without_objects(self, store):
        assert store.list("") == []
        assert store.list("commits/") == []
        assert store.list("no/such/folder/x") == []

    def test_it_shows_what_another_client_did_a_moment_ago(self, store):
        assert keys(store, "commits/") == []
        other = open_store(store.root)
        other.create("commits/1", b"x")
        assert keys(store, "commits/") == ["commits/1"]
        other.write("commits/1", b"longer")
        assert store.list("commits/") == [ObjectInfo("commits/1", 6)]
        other.delete("commits/1")
        assert keys(store, "commits/") == []

    def test_versions_of_replaced_objects_do_not_show(self, store):
        store.write("LATEST", b"1")
        store.replace("LATEST", b"2", store.read_version("LATEST")[1])
        assert keys(store) == ["LATEST"]

    def test_listing_during_deletion_misses_nothing_that_stays(self, store):
        for number in range(30):
            store.write(f"stay/{number:03d}", b"x")
            store.write(f"go/{number:03d}", b"x")

        def delete():
            for number in range(30):
                store.delete(f"go/{number:03d}")

        thread = threading.Thread(target=delete)
        thread.start()
        counts = set()
        while thread.is_alive():
            counts.add(len([key for key in keys(store) if key.startswith("stay/")]))
        thread.join()
        assert counts <= {30}
        assert len(keys(store)) == 30

    def test_two_runs_below_one_path_do_not_see_each_other(self, store):
        neighbour = open_store(f"{store.root}-2")
        neighbour.write("commits/1", b"x")
        assert keys(store) == []
        assert keys(neighbour) == ["commits/1"]
        neighbour.delete("commits/1")


class TestS3:
    def test_more_objects_than_one_page_of_a_listing(self, s3_store, monkeypatch):
        for number in range(5):
            s3_store.write(f"k/{number}", b"")
        call, pages = S3Store._call, []

        def two_per_page(self, method, **arguments):
            if method == "list_objects_v2":
                arguments["MaxKeys"] = 2
                pages.append(arguments)
            return call(self, method, **arguments)

        monkeypatch.setattr(S3Store, "_call", two_per_page)
        assert keys(s3_store, "k/") == [f"k/{number}" for number in range(5)]
        assert len(pages) == 3

    def test_a_missing_bucket(self, s3_store):
        store = open_store("s3://clipctl-no-such-bucket/run")
        for action in (lambda: store.read("x"), lambda: store.list(""), lambda: store.create("x", b"")):
            with pytest.raises(MissingError, match="bucket"):
                action()

    def test_the_root_carries_no_trailing_slash(self, s3_store):
        assert s3_store.root == f"s3://{BUCKET}/runs/demo"
        assert open_store(f"s3://{BUCKET}").root == f"s3://{BUCKET}"

    def test_wrong_credentials_are_a_permission_error(self, s3_server, s3_store, s3_environment):
        import urllib.request

        def checked_after(requests):
            body, header = str(requests).encode(), {"Content-Type": "text/plain"}
            urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset-auth", body, header)).read()

        s3_store.write("key", b"1")
        s3_environment(s3_server, key="AKIAWRONGWRONGWRONG0", secret="wrong-wrong-wrong")
        stranger = open_store(s3_store.root)
        checked_after(0)
        try:
            for action in (
                lambda: stranger.read("key"),
                lambda: stranger.read_version("key"),
                lambda: stranger.write("key", b"2"),
                lambda: stranger.create("new", b"2"),
                lambda: stranger.list(""),
            ):
                with pytest.raises(PermissionDeniedError, match="AWS_ACCESS_KEY_ID") as caught:
                    action()
                assert "wrong-wrong" not in str(caught.value)
        finally:
            checked_after("inf")
        assert s3_store.read("key") == b"1"

    def test_no_credentials_at_all_are_a_permission_error(self, s3_server, s3_environment, monkeypatch, tmp_path):
        s3_environment(s3_server)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        store = open_store(f"s3://{BUCKET}/run")
        with pytest.raises(PermissionDeniedError, match="Credentials"):
            store.read("key")

    def test_nobody_listens(self, s3_environment):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
            s3_environment(f"http://127.0.0.1:{unused.getsockname()[1]}", short=True)
            store = open_store(f"s3://{BUCKET}/run")
            for action in (lambda: store.read("x"), lambda: store.list(""), lambda: store.write("x", b"")):
                with pytest.raises(UnavailableError, match="AWS_ENDPOINT_URL"):
                    action()

    def test_the_service_hangs(self, s3_environment):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            s3_environment(f"http://127.0.0.1:{silent.getsockname()[1]}", short=True)
            with pytest.raises(UnavailableError):
                open_store(f"s3://{BUCKET}/run").read("x")

    @pytest.mark.parametrize(
        ("status", "code", "expected"),
        [
            (503, "SlowDown", UnavailableError),
            (500, "InternalError", UnavailableError),
            (403, "AccessDenied", PermissionDeniedError),
            (400, "EntityTooLarge", CannotCreateError),
            (400, "ExpiredToken", PermissionDeniedError),
        ],
    )
    def test_what_the_service_answers_decides_the_error(self, s3_environment, status, code, expected):
        with answering(status, code) as endpoint:
            s3_environment(endpoint)
            store = open_store(f"s3://{BUCKET}/run")
            for action in (lambda: store.write("x", b"1"), lambda: store.create("x", b"1"), lambda: store.list("")):
                with pytest.raises(expected):
                    action()

    def test_a_conflict_between_conditional_writers_is_a_lost_race(self, s3_environment):
        """S3 answers 409 when two conditional writes overlap; somebody else's may have won."""
        with answering(409, "ConditionalRequestConflict") as endpoint:
            s3_environment(endpoint)
            assert open_store(f"s3://{BUCKET}/run").create("x", b"1") is False


class TestInterruptedAnswers:
    """A body that breaks off is continued at the byte where it broke, of the same version."""

    DATA = bytes(range(256)) * 4000

    @pytest.fixture
    def broken(self, s3_environment):
        with fault_server({f"/{BUCKET}/run/k": self.DATA}) as server:
            s3_environment(server.url)
            yield server, open_store(f"s3://{BUCKET}/run")

    @pytest.mark.parametrize("fault", [reset_after, close_after])
    def test_it_goes_on(self, broken, fault):
        server, store = broken
        server.add(fault(300_000), times=3)
        assert store.read("k") == self.DATA
        asked = [request.headers for request in server.requests]
        assert len(asked) == 4
        assert "range" not in asked[0]
        assert all(headers["range"].startswith("bytes=") and "if-match" in headers for headers in asked[1:])

    def test_a_range_too(self, broken):
        server, store = broken
        server.add(reset_after(100_000), times=2)
        assert store.read_range("k", 1000, 900_000) == self.DATA[1000:901_000]
        assert server.requests[0].headers["range"] == "bytes=1000-900999"
        assert server.requests[-1].headers["range"].endswith("-900999")

    def test_an_object_that_was_replaced_in_between_is_read_anew(self, broken):
        server, store = broken

        def replace_it():
            server.objects[f"/{BUCKET}/run/k"] = b"new" * 200_000

        server.add(reset_after(300_000), times=1)
        server.add(first(replace_it), times=1)
        assert store.read("k") == b"new" * 200_000

    def test_it_gives_up(self, broken):
        server, store = broken
        server.add(close_after(0))
        with pytest.raises(UnavailableError):
            store.read("k")
        assert len(server.requests) == 5

    def test_a_service_that_sends_more_than_was_asked_for(self, broken):
        server, store = broken
        server.ranges = False
        with pytest.raises(UnavailableError, match="does not serve parts"):
            store.read_range("k", 10, 10)

    @pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (502, ""), (429, "")])
    def test_a_busy_service_is_asked_again(self, broken, status, code):
        server, store = broken
        server.add(refuse(status, code=code), times=2)
        assert store.read("k") == self.DATA


class TestLostAnswers:
    """The request arrived, its answer did not: the next attempt meets what the first one did."""

    @pytest.fixture
    def lossy(self, s3_server, s3_store, s3_environment):
        with fault_server(upstream=s3_server) as server:
            s3_environment(server.url)
            store = open_store(s3_store.root)
            assert store.create("warm", b"")  # has found out about conditions
            yield server, store

    def test_a_create_knows_its_own_object(self, lossy):
        server, store = lossy
        server.add(refuse(500, code="InternalError"), times=1, methods=("PUT",))
        assert store.create("commits/1", b"mine") is True

    def test_a_create_does_not_take_anothers_for_its_own(self, lossy, s3_store):
        server, store = lossy
        s3_store.write("commits/1", b"other")
        server.add(refuse(500, code="InternalError"), times=1, methods=("PUT",))
        assert store.create("commits/1", b"mine") is False

    def test_a_swap_knows_its_own_object(self, lossy):
        server, store = lossy
        store.write("LATEST", b"1")
        _, version = store.read_version("LATEST")
        server.add(refuse(500, code="InternalError"), times=1, methods=("PUT",))
        assert store.replace("LATEST", b"2", version) is True
        assert store.replace("LATEST", b"3", version) is False

    def test_an_upload_completes(self, lossy):
        server, store = lossy
        server.add(refuse(503, code="SlowDown"), times=3, methods=("PUT",), path="partNumber")
        server.add(refuse(500, code="InternalError"), times=1, methods=("POST",), path="uploadId")
        data = os.urandom(18 << 20)
        store.write_parts("big", [data], len(data))
        assert store.read("big") == data
        assert store.unfinished("") == []

    def test_an_upload_that_cannot_be_ended_is_aborted(self, lossy):
        server, store = lossy
        server.add(refuse(403, code="AccessDenied"), methods=("PUT",), path="partNumber=2")
        with pytest.raises(PermissionDeniedError):
            store.write_parts("big", [bytes(18 << 20)], 18 << 20)
        assert store.unfinished("") == []
        assert keys(store, "big") == []


class TestWithoutConditionalWrites:
    """At most one creator wins, by claims; comparing and swapping are two steps."""

    @pytest.fixture(params=[without_conditions, refusing_conditions])
    def store(self, request, s3_environment):
        with running_server(request.param) as endpoint:
            s3_environment(endpoint)
            yield emptied(open_store(f"s3://{BUCKET}/runs/plain"))

    def test_it_is_noticed_by_one_probe_that_leaves_nothing(self, store, monkeypatch):
        puts = []
        put = S3Store._put
        monkeypatch.setattr(
            S3Store, "_put", lambda self, key, data, **c: (puts.append((key, c)), put(self, key, data, **c))
        )
        assert store.create("a", b"1")
        assert store.create("b", b"1")
        probes = [key for key, conditions in puts if conditions]
        assert 1 <= len(probes) <= 2
        assert len(set(probes)) == 1
        assert probes[0].startswith("probes/")
        assert keys(store) == ["a", "b"]

    def test_only_the_first_succeeds(self, store):
        assert store.create("commits/1", b"first") is True
        assert store.create("commits/1", b"second") is False
        assert store.read("commits/1") == b"first"
        store.delete("commits/1")
        assert store.create("commits/1", b"third") is True
        assert keys(store) == ["commits/1"]

    def test_at_most_one_of_many_threads_succeeds(self, store):
        store.create("warm", b"")
        for contest in range(3):
            start = threading.Barrier(4)

            def contend(name, contest=contest, start=start):
                start.wait()
                return name if store.create(f"incarnations/{contest}", str(name).encode()) else None

            with ThreadPoolExecutor(4) as pool:
                winners = [name for name in pool.map(contend, range(4)) if name is not None]
            stored = [store.read(key) for key in keys(store, f"incarnations/{contest}")]
            assert stored == [str(name).encode() for name in winners]
            assert len(winners) <= 1
        assert keys(store, "claims/") == []

    def test_a_claim_that_a_dead_contender_left_keeps_the_key_closed(self, store):
        store.write("claims/commits/1/dead", b"claim\n")
        assert store.create("commits/1", b"x") is False
        assert keys(store) == ["claims/commits/1/dead"]
        assert store.create("commits/10", b"x") is True

    def test_replacing(self, store):
        store.write("LATEST", b"1")
        _, version = store.read_version("LATEST")
        assert store.replace("LATEST", b"2", version) is True
        assert store.replace("LATEST", b"3", version) is False
        assert store.read("LATEST") == b"2"
        store.delete("LATEST")
        assert store.replace("LATEST", b"4", version) is False


class answering:
    """An HTTP server that gives the same S3 error to every request."""

    def __init__(self, status, code):
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message></Error>'.encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # or it would not answer `Expect: 100-continue`

            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class TestLocal:
    @pytest.fixture
    def store(self, tmp_path):
        return LocalStore(tmp_path / "run")

    @pytest.fixture
    def failing(self, monkeypatch):
        """Make a function of `os` fail like a file system does."""

        def fail(name, number):
            def raise_it(*arguments, **keywords):
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr(os, name, raise_it)

        return fail

    @pytest.mark.parametrize(
        ("number", "words"),
        [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only"), (errno.EIO, "error")],
    )
    @pytest.mark.parametrize("function", ["fsync", "replace"])
    def test_a_write_that_cannot_be_stored(self, store, failing, monkeypatch, function, number, words):
        store.write("key", b"before")
        with monkeypatch.context():
            failing(function, number)
            with pytest.raises(CannotCreateError, match=words):
                store.write("key", b"after")
            monkeypatch.undo()
        assert store.read("key") == b"before"
        assert files(store) == ["key"]

    @pytest.mark.parametrize("function", ["fsync", "link"])
    def test_a_create_that_cannot_be_stored_leaves_nothing(self, store, failing, monkeypatch, function):
        with monkeypatch.context():
            failing(function, errno.ENOSPC)
            with pytest.raises(CannotCreateError, match="disk is full"):
                store.create("commits/1", b"x")
            monkeypatch.undo()
        assert store.list("") == []
        assert store.create("commits/1", b"x")

    def test_a_really_full_disk(self, store, tmp_path):
        """The kernel's own refusal, for whoever the tests run as: a file size limit in a child process."""
        import subprocess
        import sys

        code = (
            "import resource, signal, sys\n"
            "from clipctl.contract.store_local import LocalStore\n"
            "from clipctl.contract.errors import ClipError\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
            "try: LocalStore(sys.argv[1]).write('big', bytes(100_000))\n"
            "except ClipError as error: print(error.code.value, error.problem)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, store.root], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("73 cannot write")
        assert files(store) == []

    def test_no_permission(self, store, failing, monkeypatch):
        store.write("key", b"1")
        with monkeypatch.context():
            failing("link", errno.EACCES)
            with pytest.raises(PermissionDeniedError, match="owner and mode"):
                store.create("new", b"x")

    def test_a_folder_that_may_not_be_read_is_not_an_empty_one(self, store, failing, monkeypatch):
        """Else a run whose commits cannot be listed would start from zero."""
        store.write("commits/1", b"x")
        with monkeypatch.context():
            failing("scandir", errno.EACCES)
            with pytest.raises(PermissionDeniedError):
                store.list("commits/")

    def test_a_folder_that_fails_to_list_is_not_an_empty_one(self, store, failing, monkeypatch):
        store.write("commits/1", b"x")
        with monkeypatch.context():
            failing("scandir", errno.EIO)
            with pytest.raises(CannotCreateError):
                store.list("commits/")

    @pytest.mark.parametrize("key", ["../outside", "a/../../outside", "a/../.."])
    def test_no_key_leaves_the_root(self, store, key):
        for action in (lambda: store.write(key, b"x"), lambda: store.read(key), lambda: store.delete(key)):
            with pytest.raises(CannotCreateError, match="leaves the store root"):
                action()

    def test_a_file_where_a_folder_is_needed(self, store):
        store.write("a", b"file")
        with pytest.raises(CannotCreateError):
            store.write("a/b", b"x")

    def test_data_is_synced_before_it_gets_its_name(self, store, monkeypatch):
        order = []
        for name in ("fsync", "replace", "link"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *a, _n=name, _f=real: (order.append(_n), _f(*a))[1])
        store.write("w", b"1")
        assert order == ["fsync", "replace", "fsync"]  # file, name, directory
        order.clear()
        store.create("c", b"1")
        assert order == ["fsync", "link", "fsync"]

    def test_a_folder_that_a_deletion_takes_away_under_a_writer_is_made_again(self, store, monkeypatch):
        mkstemp = tempfile.mkstemp

        def after_the_deletion(**options):
            monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
            store.delete("a/b/old")
            return mkstemp(**options)

        store.write("a/b/old", b"1")
        monkeypatch.setattr(tempfile, "mkstemp", after_the_deletion)
        store.write("a/b/new", b"2")
        assert store.read("a/b/new") == b"2"
        assert files(store) == ["new"]

    def test_deleting_removes_the_folders_that_became_empty(self, store):
        store.write("a/b/c", b"1")
        store.delete("a/b/c")
        assert not (os.path.exists(f"{store.root}/a"))
        assert os.path.isdir(store.root)


def files(store):
    return sorted(name for _, _, names in os.walk(store.root) for name in names)


class TestOpening:
    @pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"])
    def test_paths_and_file_urls_are_the_same_place(self, tmp_path, form):
        open_store(str(tmp_path)).write("k", b"1")
        assert open_store(form.format(tmp_path)).read("k") == b"1"

    def test_the_home_directory_is_expanded(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert open_store("~/runs").root == str(tmp_path / "runs")

    def test_a_relative_path_does_not_follow_the_working_directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        store = open_store("runs")
        monkeypatch.chdir("/")
        store.write("k", b"1")
        assert (tmp_path / "runs" / "k").read_bytes() == b"1"

    @pytest.mark.parametrize("url", ["http://x/y", "gs://b/p", "pipe://cat", "S4://b"])
    def test_other_schemes_are_refused(self, url):
        with pytest.raises(SpecError, match=r"only s3:// URLs, file:// URLs and local paths"):
            open_store(url)

"""Reading from object storage that fails in every way we know of: the bytes are intact, or the error is clear."""

import random
import threading
from dataclasses import replace

import pytest

from clip_testkit.httpfaults import (
    close_after,
    damage,
    expire_token,
    first,
    refuse,
    reset_after,
    slow,
    stall_after,
    truncate,
    web_page,
)
from clip_testkit.s3fault import fault_server
from clip_testkit.s3server import ask, create_bucket, s3_server, use_only
from clip_testkit.shards import write_dataset
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.index.verify import verify_dataset
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.storage.block_store import BlockStore
from clip_trainer.data.storage.http_connections import Timeouts
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.source import SequentialReader
from clip_trainer.data.storage.source_cached import CachedSource
from clip_trainer.data.storage.source_http import HttpSource
from clip_trainer.data.storage.source_s3 import S3Source
from clipctl.contract.errors import CorruptError, ExitCode, PermissionDeniedError, UnavailableError

SIZE = 9 << 20
CONTENT = random.Random(7).randbytes(SIZE)
KIB = 1 << 10


@pytest.fixture(scope="module")
def moto():
    with s3_server() as url:
        create_bucket(url, "bucket")
        yield url


@pytest.fixture
def proxy(moto, monkeypatch, tmp_path):
    """A server between us and moto."""
    with fault_server(upstream=moto) as server:
        use_only(monkeypatch, server.url, tmp_path / "none")
        ask(moto, "PUT", "/bucket/d/a.tar", CONTENT)
        yield server


class Waits(list):
    """Notes how long would have been slept."""

    @property
    def policy(self):
        return RetryPolicy(attempts=4, sleep=self.append, draw=lambda: 0.5)


@pytest.fixture
def waits():
    return Waits()


def s3(waits, stall=20.0):
    return S3Source("s3://bucket/d", retry=waits.policy, timeouts=Timeouts(stall=stall))


def read_all(source):
    """The whole object, as indexing reads it."""
    chunks = []
    stream = SequentialReader(source, source.info("a.tar"), chunks.append)
    while stream.read(1 << 20):
        pass
    return b"".join(chunks)


def ranges(server):
    return [request.headers["range"] for request in server.requests if "range" in request.headers]


@pytest.mark.parametrize("every", [64 * KIB, 100_001, 1 << 20])
@pytest.mark.parametrize("cut", [reset_after, close_after])
def test_a_link_that_breaks_again_and_again_still_progresses(proxy, waits, cut, every):
    proxy.add(cut(every))
    source = s3(waits)
    assert read_all(source) == CONTENT
    assert proxy.sent <= 1.05 * SIZE, "only what was lost on the way is sent twice"
    assert source.counters.retries >= SIZE // every - 2
    assert max(waits) <= RetryPolicy().base, "progress is not punished"


def test_a_broken_body_goes_on_at_the_last_good_byte_of_the_same_version(proxy, waits):
    proxy.add(reset_after(300_000), times=2)
    source = s3(waits)
    assert source.read("a.tar", 1000, 1_000_000) == CONTENT[1000:1_001_000]
    assert ranges(proxy) == ["bytes=1000-1000999", "bytes=301000-1000999", "bytes=601000-1000999"]
    gets = [request for request in proxy.requests if request.method == "GET"]
    etag = source.info("a.tar").etag
    assert [request.headers.get("if-match") for request in gets] == [None, f'"{etag}"', f'"{etag}"']


def test_a_link_that_brings_next_to_nothing_is_given_up(proxy, waits):
    proxy.add(reset_after(KIB))
    with pytest.raises(UnavailableError) as caught:
        s3(waits).read("a.tar", 0, SIZE)
    assert caught.value.code == ExitCode.UNAVAILABLE
    assert proxy.sent == 4 * KIB, "less than 16 KiB are no progress"


@pytest.mark.parametrize("after", [0, 100_000])
def test_a_stalled_body_is_fetched_again_from_where_it_stalled(proxy, waits, after):
    # Twice: on a busy machine an answer may not even have begun in so short a time.
    proxy.add(stall_after(after), times=2)
    source = s3(waits, stall=0.5)
    assert source.read("a.tar", 0, 500_000) == CONTENT[:500_000]
    assert len(ranges(proxy)) >= 3
    assert ranges(proxy)[0] == "bytes=0-499999"
    assert f"bytes={after}-499999" in ranges(proxy)[1:]
    assert source.counters.bytes_read == 500_000, "nothing was fetched twice"


def test_a_server_that_always_stalls_is_given_up(proxy, waits):
    proxy.add(stall_after(0))
    with pytest.raises(UnavailableError, match="timed out"):
        s3(waits, stall=0.1).read("a.tar", 0, 500_000)
    assert len(waits) == 3


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_storm_of_refusals_is_waited_out_as_long_as_the_server_asks(proxy, waits, status):
    proxy.add(refuse(status, retry_after=2, code="SlowDown"), times=3)
    assert s3(waits).read("a.tar", 5, 100) == CONTENT[5:105]
    assert waits == pytest.approx([2.05, 2.1, 2.2])


def test_what_a_server_may_ask_for_is_limited(proxy, waits):
    proxy.add(refuse(503, retry_after=86400), times=1)
    s3(waits).read("a.tar", 0, 100)
    assert waits == pytest.approx([60.05])


def test_a_storm_without_end_is_not_waited_out(proxy, waits):
    proxy.add(refuse(503, code="SlowDown"))
    with pytest.raises(UnavailableError, match="503, SlowDown"):
        s3(waits).read("a.tar", 0, 100)
    assert len(ranges(proxy)) == 4


def test_random_faults_never_change_a_byte(proxy, waits):
    for fault in (reset_after(200_000), close_after(70_000), refuse(503), refuse(500), truncate(150_000), web_page()):
        proxy.add(fault, probability=0.1)
    source = s3(waits)
    for _ in range(3):
        assert read_all(source) == CONTENT


def test_a_short_body_with_a_matching_length_is_noticed(proxy, waits):
    proxy.add(truncate(1000), times=2)
    assert s3(waits).read("a.tar", 0, 500_000) == CONTENT[:500_000]
    proxy.add(truncate(1000))
    with pytest.raises(UnavailableError, match="announced 1000 bytes and a range of 500000"):
        s3(waits).read("a.tar", 0, 500_000)


def test_a_web_page_is_not_taken_for_an_object(proxy, waits):
    proxy.add(web_page(), times=2)
    assert s3(waits).read("a.tar", 10, 100) == CONTENT[10:110]
    proxy.add(web_page())
    with pytest.raises(UnavailableError, match="web page"):
        s3(waits).read("a.tar", 10, 100)
    etag = S3Source("s3://bucket/d").info("a.tar").etag
    with pytest.raises(UnavailableError, match="without an etag"):
        s3(waits).read("a.tar", 10, 100, etag=etag)


def test_an_object_that_changes_between_reads_is_refused(proxy, moto, waits):
    source = s3(waits)
    etag = source.info("a.tar").etag
    assert source.read("a.tar", 0, 10, etag=etag) == CONTENT[:10]
    ask(moto, "PUT", "/bucket/d/a.tar", CONTENT[::-1])
    with pytest.raises(CorruptError, match="changed while it was being read") as caught:
        source.read("a.tar", 10, 10, etag=etag)
    assert caught.value.code == ExitCode.CORRUPT
    assert not waits, "waiting does not bring it back"


def test_an_object_that_changes_in_the_middle_of_a_range_is_refused(proxy, moto, waits):
    proxy.add(first(lambda: ask(moto, "PUT", "/bucket/d/a.tar", CONTENT[::-1])), times=1)
    proxy.add(reset_after(100_000), times=1)
    with pytest.raises(CorruptError, match="changed while it was being read"):
        s3(waits).read("a.tar", 0, 500_000)


def test_an_object_that_became_shorter_is_refused(proxy, moto, waits):
    ask(moto, "PUT", "/bucket/d/a.tar", b"short")
    for offset in (0, 3, 5, 100):
        with pytest.raises(CorruptError, match="shorter"):
            s3(waits).read("a.tar", offset, 100)


def test_other_bytes_of_the_right_length_are_caught_by_the_index(moto, proxy, waits, tmp_path):
    write_dataset(tmp_path / "local", [6, 9])
    for shard in (tmp_path / "local").glob("*.tar"):
        ask(moto, "PUT", f"/bucket/wrong/{shard.name}", shard.read_bytes())
    dataset = open_dataset("s3://bucket/wrong")
    proxy.add(damage(), methods=("GET",), path=r"\.tar")
    assert not verify_dataset("s3://bucket/wrong", deep=True).ok
    proxy.heal()
    assert verify_dataset("s3://bucket/wrong", deep=True).ok
    assert dataset.index.samples == 15


def test_what_is_damaged_on_its_way_into_the_disk_cache_does_not_stay_there(moto, proxy, waits, tmp_path):
    write_dataset(tmp_path / "local", [6, 9])
    for shard in (tmp_path / "local").glob("*.tar"):
        ask(moto, "PUT", f"/bucket/kept/{shard.name}", shard.read_bytes())
    dataset = open_dataset("s3://bucket/kept")
    dataset = replace(dataset, source=CachedSource(dataset.source, BlockStore(tmp_path / "cache", 64 << 20)))
    counts = list(enumerate(dataset.counts))

    def samples():
        reader = dataset.open_reader(ReadHints(cache_bytes=0))
        return [reader.read(shard, index).members for shard, count in counts for index in range(count)]

    proxy.add(damage(200), times=1)
    first = samples()
    bytes_read = dataset.source.counters.bytes_read
    assert samples() == first
    assert dataset.source.counters.bytes_read - bytes_read < 1 << 20
    bytes_read = dataset.source.counters.bytes_read
    assert samples() == first
    assert dataset.source.counters.bytes_read == bytes_read, "all of it comes from the disk"
    assert first == [
        sample.members
        for reader in [open_dataset(str(tmp_path / "local")).open_reader(ReadHints())]
        for sample in (reader.read(shard, index) for shard, count in counts for index in range(count))
    ]


def test_a_slow_store_is_waited_for(proxy, waits):
    proxy.add(slow(1 << 18))
    assert s3(waits, stall=3.0).read("a.tar", 0, 1 << 20) == CONTENT[: 1 << 20], "it takes longer than a stall may"
    assert not waits


def test_many_threads_read_through_a_bad_link(proxy, waits):
    proxy.add(reset_after(64 * KIB), probability=0.5)
    source, wrong = s3(waits), []

    def work(seed):
        chance = random.Random(seed)
        for _ in range(20):
            start = chance.randrange(SIZE - 200_000)
            if source.read("a.tar", start, 200_000) != CONTENT[start : start + 200_000]:
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert source.counters.bytes_read == 4 * 20 * 200_000


def with_token(monkeypatch, token):
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)


def dead_requests(proxy):
    return [request for request in proxy.requests if request.headers.get("x-amz-security-token") == "old"]


@pytest.mark.parametrize(
    "call",
    [
        lambda source: source.read("a.tar", 0, 100),
        lambda source: source.info("a.tar"),
        lambda source: source.list_shards(),
        lambda source: source.save("b.json", b"{}"),
    ],
)
def test_expired_credentials_end_it_after_few_requests(proxy, monkeypatch, waits, call):
    with_token(monkeypatch, "old")
    proxy.add(expire_token("old"), methods=("GET", "HEAD", "PUT"))
    source = s3(waits)
    for _ in range(5):
        with pytest.raises(PermissionDeniedError, match="expired") as caught:
            call(source)
        assert caught.value.code == ExitCode.PERMISSION
        assert "AWS_SESSION_TOKEN" in caught.value.hint
    assert len(dead_requests(proxy)) <= 3
    assert not waits


def test_renewed_credentials_are_used_in_the_middle_of_a_run(proxy, monkeypatch, waits):
    with_token(monkeypatch, "old")
    source = s3(waits)
    etag = source.info("a.tar").etag
    source.read("a.tar", 0, 100, etag=etag)
    before = len(dead_requests(proxy))
    proxy.add(expire_token("old"))
    proxy.add(first(lambda: with_token(monkeypatch, "new")), times=1)  # somebody renews them meanwhile
    assert source.read("a.tar", 0, 5000, etag=etag) == CONTENT[:5000]
    assert len(dead_requests(proxy)) == before + 1
    assert not waits


def test_refused_credentials_are_no_reason_to_try_again(proxy, waits):
    proxy.add(refuse(403, code="AccessDenied"))
    with pytest.raises(PermissionDeniedError, match="AccessDenied"):
        s3(waits).read("a.tar", 0, 100)
    assert len(proxy.requests) == 1


def test_another_region_is_said(proxy, waits):
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"
    proxy.add(lambda request, answer, chance: answer.__class__(400, {}, body), methods=("GET", "HEAD"))
    with pytest.raises(Exception, match="region eu-west-1") as caught:
        s3(waits).info("a.tar")
    assert caught.value.code == ExitCode.USAGE
    assert "AWS_REGION=eu-west-1" in caught.value.hint


@pytest.mark.parametrize("ranged", [True, False])
def test_a_web_server_that_breaks_bodies(waits, ranged):
    with fault_server({"/x/a.tar": CONTENT}) as server:
        server.ranges = ranged
        server.add(reset_after(3_000_000), times=2)
        source = HttpSource(f"{server.url}/x", retry=waits.policy)
        assert source.read("a.tar", 1 << 20, 5 << 20) == CONTENT[1 << 20 : 6 << 20]
        assert source.counters.retries == (1 if ranged else 2)

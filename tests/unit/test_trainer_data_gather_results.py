"""Results of rows, errors and retries: what is written down, and what is tried again."""

import itertools
import random
import threading

import pytest

from clip_trainer.data.gather.errors import GatherError, of_status
from clip_trainer.data.gather.progress import GatherTally
from clip_trainer.data.gather.results import Result, failed, from_csv, key_of, results_name, to_csv
from clip_trainer.data.gather.retry import RetryRule
from clip_trainer.data.gather.table import Row
from clipctl.contract.errors import CorruptError

GOOD = Result(7, 'http://a.test/?q="1,2"', "ok", 200, 1234, 64, 48, "", "shard-000000.tar", "000000007")


def test_results_come_back_as_they_were():
    bad = failed(Row(8, "http://b.test/ü\nx", "a dog"), 0, of_status(404))
    worse = failed(Row(9, "", ""), 0, GatherError("bad-url", "not  an\naddress"))
    data = to_csv([GOOD, bad, worse])
    assert from_csv(data, "x") == [GOOD, bad, worse]
    assert (bad.status, bad.http, bad.ok, GOOD.ok) == ("http-404", 404, False, True)
    assert (worse.error, worse.key, worse.shard) == ("not an address", "000000009", "shard-000000.tar")
    assert data.decode().splitlines()[:2] == [
        "row,url,status,http,bytes,width,height,error,shard,key",
        '7,"http://a.test/?q=""1,2""",ok,200,1234,64,48,,shard-000000.tar,000000007',
    ]


@pytest.mark.parametrize(
    "data", [b"", b"row,url\n", b"\xff", to_csv([GOOD]) + b"8,too,short\n", to_csv([GOOD]).replace(b"1234", b"many")]
)
def test_files_that_hold_no_results(data):
    with pytest.raises(CorruptError, match=r"shard-000000\.csv holds no results"):
        from_csv(data, "shard-000000.csv")


def test_names():
    assert (key_of(12), results_name(3)) == ("000000012", "shard-000003.csv")
    assert key_of(10**10) == "10000000000"


@pytest.mark.parametrize(
    ("status", "transient"), [(204, False), (400, False), (403, False), (404, False), (410, False), (451, False),
                              (408, True), (429, True), (500, True), (502, True), (503, True), (504, True)],
)  # fmt: skip
def test_which_answers_may_become_better(status, transient):
    error = of_status(status, retry_after=9.0)
    assert (error.reason, error.code, error.transient) == (f"http-{status}", status, transient)
    assert error.retry_after == (9.0 if transient else 0.0)


def test_only_transient_failures_are_tried_again():
    rule = RetryRule(retries=2, draw=lambda: 0.5)
    assert rule.wait(GatherError("timeout", transient=True), 1) == 0.5
    assert rule.wait(GatherError("timeout", transient=True), 2) == 1.0
    assert rule.wait(GatherError("timeout", transient=True), 3) is None
    assert rule.wait(GatherError("not-an-image"), 1) is None
    assert RetryRule(retries=0).wait(GatherError("timeout", transient=True), 1) is None


def test_waits_have_full_jitter_and_a_cap():
    draws = random.Random(1)
    rule = RetryRule(retries=20, base=1.0, cap=8.0, draw=draws.random)
    waits = [rule.wait(GatherError("timeout", transient=True), 10) for _ in range(500)]
    assert 0 <= min(waits) < 0.5
    assert 7.5 < max(waits) < 8.0


def test_the_host_may_ask_for_a_longer_wait_but_not_for_ever():
    rule = RetryRule(retries=2, patience=120.0, draw=lambda: 0.5)
    assert rule.wait(of_status(429, 100.0), 1) == 100.0
    assert rule.wait(of_status(429, 0.1), 1) == 0.5
    assert rule.wait(of_status(429, 121.0), 1) is None


def test_the_tally_tells_the_rate_and_the_most_frequent_reasons():
    now, events = [0.0], []
    tally = GatherTally(10, events.append, clock=lambda: now[0])
    tally.count_stored([GOOD, GOOD, failed(Row(8, "u", "c"), 0, of_status(404))])
    now[0] = 4.0
    for status, size in [("ok", 100), ("timeout", 0), ("timeout", 0), ("ok", 300)]:
        tally.count(status, size)
    last = events[-1]
    assert (last.stage, last.done, last.total, last.bytes_done) == ("gather", 7, 10, 400)
    assert last.item == "(0.5 images/s; failed: timeout 2, http-404 1)"
    assert events[0].item == "(0.2 images/s; failed: http-404 1)"
    assert (tally.images, tally.fetched) == (4, 4)
    assert list(tally.failures.items()) == [("timeout", 2), ("http-404", 1)]


def test_the_tally_is_shared_by_threads():
    """Stored results are counted while rows arrive; every event sees a whole count."""
    events = []
    tally = GatherTally(10_000, events.append)
    reasons = [f"http-{number}" for number in range(400, 500)]

    def work():
        for reason in reasons * 10:
            tally.count(reason, 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1000):
        tally.count_stored([failed(Row(number, "u", "c"), 0, GatherError(f"old-{number}"))])
    for thread in threads:
        thread.join()
    assert sum(tally.failures.values()) == 5000
    assert tally.fetched == len(events) == 4000
    assert [event.bytes_done for event in events] == list(range(1, 4001))
    assert all(later.done > event.done for event, later in itertools.pairwise(events))


def test_the_tally_shows_the_first_few_reasons_only():
    events = []
    tally = GatherTally(9, events.append)
    for reason in ("a", "b", "c", "d", "e"):
        tally.count(reason, 0)
    assert events[-1].item.endswith("failed: a 1, b 1, c 1, d 1)")
    quiet = GatherTally(1, None)
    quiet.count("ok", 1)
    assert quiet.images == 1

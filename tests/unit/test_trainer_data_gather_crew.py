"""The crew: rows become results, whatever the web answers; nobody gets more requests than the queue of hosts allows."""

import threading
from collections import Counter
from itertools import count

import pytest

from clip_testkit.shards import png
from clip_trainer.data.gather.crew import Crew
from clip_trainer.data.gather.errors import GatherError, of_status
from clip_trainer.data.gather.fetch import MAX_REDIRECTS, Fetched, Moved
from clip_trainer.data.gather.hosts import HostQueue
from clip_trainer.data.gather.retry import RetryRule
from clip_trainer.data.gather.shard import GatheringShard
from clip_trainer.data.gather.table import Row
from clip_trainer.data.writing.image import StoredImage

IMAGE = Fetched(StoredImage("png", png(1), (8, 8), (8, 8)), "digest")
PATIENT = RetryRule(retries=2, base=0.0)


class Web:
    """Answers by address; what is not listed is an image. Lists are used up, their last answer stays."""

    def __init__(self, answers=None, delays=None):
        self.answers, self.delays = answers or {}, delays or {}
        self.asked = Counter()
        self.lock = threading.Lock()

    def delay(self, url):
        found = self.delays.get(url, 0.0)
        if isinstance(found, Exception):
            raise found
        return found

    def fetch(self, url):
        with self.lock:
            self.asked[url] += 1
            answer = self.answers.get(url, IMAGE)
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def gather(web, urls, *, threads=3, rule=PATIENT, per_host=2, captions=None):
    """Statuses of the rows, and what was told about them."""
    rows = [Row(number, url, "words" if captions is None else captions[number]) for number, url in enumerate(urls)]
    told = []
    with Crew(web, HostQueue(per_host), rule, threads, lambda status, size: told.append((status, size))) as crew:
        shard = GatheringShard(0, rows)
        crew.add(shard)
        assert crew.next_complete() is shard
        assert crew.open == 0
    statuses = [result.status for result in shard.results()]
    shard.close()
    assert Counter(statuses) == Counter(status for status, _ in told)
    return statuses


def test_images_and_failures():
    web = Web({"http://a.test/2": of_status(404)})
    assert gather(web, [f"http://a.test/{number}" for number in range(4)]) == ["ok", "ok", "http-404", "ok"]
    assert set(web.asked.values()) == {1}


def test_rows_that_cannot_be_fetched_cost_no_request():
    web = Web()
    urls = ["", "ftp://a.test/x", "http://", "http://a.test:port/", "http://a.test/caf\ufffd.png", "http://a.test/x"]
    assert gather(web, urls, captions=["x"] * 5 + [""]) == ["bad-url"] * 5 + ["no-caption"]
    assert not web.asked


def test_the_same_address_twice_is_two_samples():
    assert gather(Web(), ["http://a.test/x"] * 5) == ["ok"] * 5


@pytest.mark.parametrize(
    ("answers", "status", "requests"),
    [
        ([of_status(500), IMAGE], "ok", 2),
        ([GatherError("timeout", transient=True), of_status(503), IMAGE], "ok", 3),
        ([GatherError("connection", transient=True)], "connection", 3),
        ([of_status(500), of_status(404)], "http-404", 2),
        ([of_status(429, retry_after=121.0)], "http-429", 1),
        ([GatherError("not-an-image")], "not-an-image", 1),
    ],
)
def test_what_may_pass_is_tried_again(answers, status, requests):
    web = Web({"http://a.test/x": answers})
    assert gather(web, ["http://a.test/x"]) == [status]
    assert web.asked["http://a.test/x"] == requests


def test_redirects_are_followed_within_reason():
    chain = {f"http://a.test/{number}": Moved(f"http://b.test/{number + 1}") for number in range(9)}
    chain |= {f"http://b.test/{number}": Moved(f"http://a.test/{number + 1}") for number in range(9)}
    web = Web(chain)
    assert gather(web, ["http://a.test/0"]) == ["redirect"]
    assert sum(web.asked.values()) == MAX_REDIRECTS + 1
    last = f"http://{'ab'[MAX_REDIRECTS % 2]}.test/{MAX_REDIRECTS}"
    assert gather(Web({**chain, last: IMAGE}), ["http://a.test/0"]) == ["ok"]


def test_after_a_redirect_only_the_last_request_is_made_again():
    web = Web({"http://a.test/x": Moved("http://b.test/x"), "http://b.test/x": [of_status(500), IMAGE]})
    assert gather(web, ["http://a.test/x"]) == ["ok"]
    assert web.asked == {"http://a.test/x": 1, "http://b.test/x": 2}


def test_what_a_host_forbids_is_not_asked_for():
    web = Web(delays={"http://a.test/x": GatherError("robots"), "http://b.test/y": GatherError("robots")},
              answers={"http://a.test/y": Moved("http://b.test/y")})  # fmt: skip
    assert gather(web, ["http://a.test/x", "http://a.test/y", "http://a.test/z"]) == ["robots", "robots", "ok"]
    assert set(web.asked) == {"http://a.test/y", "http://a.test/z"}, "the target of a redirect has its own rules"


class Busy(Web):
    """Notes how many requests each host has at once; every request waits until another one has come, or a moment."""

    def __init__(self):
        super().__init__()
        self.now, self.most = Counter(), Counter()
        self.meeting = threading.Barrier(2)

    def fetch(self, url):
        host = url.split("/")[2]
        with self.lock:
            self.now[host] += 1
            self.most[host] = max(self.most[host], self.now[host])
        try:
            self.meeting.wait(0.02)
        except threading.BrokenBarrierError:
            self.meeting.reset()
        with self.lock:
            self.now[host] -= 1
        return IMAGE


def test_no_host_gets_more_requests_at_once_than_it_may():
    web = Busy()
    assert gather(web, [f"http://{host}.test/{n}" for n in range(10) for host in "ab"], threads=8) == ["ok"] * 20
    assert max(web.most.values()) == 2


def test_several_shards_are_under_way_at_once():
    blocked = threading.Event()

    class Slow(Web):
        def fetch(self, url):
            if url == "http://slow.test/0":
                blocked.wait(60)
            return IMAGE

    shards = [
        GatheringShard(number, [Row(number, f"http://{host}.test/0", "x")])
        for number, host in enumerate(["slow", "b", "c"])
    ]
    with Crew(Slow(), HostQueue(1), PATIENT, 2, lambda status, size: None) as crew:
        for shard in shards:
            crew.add(shard)
        assert crew.open == 3
        assert {crew.next_complete().number, crew.next_complete().number} == {1, 2}
        blocked.set()
        assert crew.next_complete().number == 0
    for shard in shards:
        shard.close()


def test_a_bug_ends_the_work_and_is_not_swallowed():
    web = Web({"http://a.test/x": ZeroDivisionError("a bug")})
    shard = GatheringShard(0, [Row(0, "http://a.test/x", "x")])
    crew = Crew(web, HostQueue(1), PATIENT, 2, lambda status, size: None)

    def work():
        with crew:
            crew.add(shard)
            crew.next_complete()

    with pytest.raises(ZeroDivisionError):
        work()
    assert shard._spool.closed


def test_hosts_get_the_time_they_ask_for():
    """A crawl delay slows a host down; `Retry-After` pauses all of it, not only the row that met it."""
    asked = []

    class Noting(HostQueue):
        def slow_down(self, host, delay):
            asked.append(("slow", host, delay))

        def pause(self, host, until):
            asked.append(("pause", host, until))

    web = Web({"http://b.test/x": [of_status(503, retry_after=0.25), IMAGE]}, delays={"http://a.test/x": 3.0})
    rows = [Row(number, f"http://{host}.test/x", "words") for number, host in enumerate("ab")]
    shard = GatheringShard(0, rows)
    with Crew(web, Noting(1), PATIENT, 1, lambda status, size: None, clock=ticking()) as crew:
        crew.add(shard)
        crew.next_complete()
    assert ("slow", "a.test", 3.0) in asked
    pauses = [entry for entry in asked if entry[0] == "pause"]
    assert [host for _, host, _ in pauses] == ["b.test"]
    assert [result.status for result in shard.results()] == ["ok", "ok"]
    shard.close()


def ticking():
    """A clock that goes on by itself, a second at every look."""
    seconds = count()
    return lambda: float(next(seconds))

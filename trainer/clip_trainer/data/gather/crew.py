"""Threads that fetch the rows of open shards, each taking whichever host may be asked next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from clip_trainer.data.gather.errors import OK, GatherError
from clip_trainer.data.gather.exchange import host_of
from clip_trainer.data.gather.fetch import MAX_REDIRECTS, Fetched, Moved
from clip_trainer.data.gather.hosts import HostQueue
from clip_trainer.data.gather.retry import RetryRule
from clip_trainer.data.gather.shard import GatheringShard
from clip_trainer.data.gather.table import Row


class Fetcher(Protocol):
    """See `fetch.ImageFetcher`."""

    def delay(self, url: str) -> float:
        """Seconds that the host wants between two requests. Raises GatherError."""
        ...

    def fetch(self, url: str) -> Fetched | Moved:
        """One request. Raises GatherError."""
        ...


@dataclass
class Job:
    """A row on its way to a result."""

    row: Row
    shard: GatheringShard
    url: str  # where the next request goes: after a redirect not the row's
    redirects: int = 0
    failures: int = 0


Done = Callable[[str, int], None]
"""Told what became of a row (`ok` or a reason) and how many bytes it has; one call at a time."""


class Crew:
    """Fetches shards; a context manager.

    Args:
        fetcher: asks the web.
        hosts: keeps the limits of every host.
        rule: when failures are tried again.
        threads: how many requests at the same time.
        on_done: told about every row.
        clock: seconds.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        hosts: HostQueue[Job],
        rule: RetryRule,
        threads: int,
        on_done: Done,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetcher, self._hosts, self._rule, self._on_done, self._clock = fetcher, hosts, rule, on_done, clock
        self._lock = threading.Lock()
        self._work_changed, self._result_added = threading.Condition(self._lock), threading.Condition(self._lock)
        self._open: list[GatheringShard] = []
        self._stopped = False
        self._crash: BaseException | None = None
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Crew:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._stopped = True
            self._work_changed.notify_all()
        if kind is None:  # with an error somebody wants to leave now, and requests may take a minute
            for thread in self._threads:
                thread.join()
        for shard in self._open:
            shard.close()

    @property
    def open(self) -> int:
        """Shards that were added and not returned."""
        return len(self._open)

    def add(self, shard: GatheringShard) -> None:
        """Start to fetch the rows that a shard misses."""
        self._open.append(shard)
        for row in shard.missing():
            try:
                if not row.caption and row.url:
                    raise GatherError("no-caption")
                job, host = Job(row, shard, row.url), host_of(row.url)
            except GatherError as error:
                with self._lock:
                    self._fail(shard, row, error)
            else:
                with self._lock:
                    self._put(host, job)

    def next_complete(self) -> GatheringShard:
        """Wait for a shard of which every row has a result; the oldest one if there are several."""
        with self._lock:
            while True:
                if self._crash is not None:
                    raise self._crash
                for shard in self._open:
                    if shard.complete:
                        self._open.remove(shard)
                        return shard
                self._result_added.wait()

    def _run(self) -> None:
        try:
            while (taken := self._take()) is not None:
                self._work(*taken)
        except BaseException as error:  # handed to the thread that waits
            with self._lock:
                self._crash = error
                self._result_added.notify()

    def _take(self) -> tuple[str, Job] | None:
        """Wait for a request that may start; None at the end."""
        with self._lock:
            while not self._stopped:
                taken, left = self._hosts.take(self._clock()), self._hosts.wait(self._clock())
                if taken is None:
                    self._work_changed.wait(left)
                    continue
                if left is not None:
                    self._work_changed.notify()  # somebody else has to know when the next one starts
                return taken
            return None

    def _work(self, host: str, job: Job) -> None:
        """One request, and what follows from it."""
        outcome: Fetched | Moved | GatherError
        try:
            delay = self._fetcher.delay(job.url)
            with self._lock:
                self._hosts.slow_down(host, delay)
            outcome = self._fetcher.fetch(job.url)
            if isinstance(outcome, Fetched):
                job.shard.add_image(job.row, outcome.image, outcome.sha256)
        except GatherError as error:
            outcome = error
        with self._lock:
            if isinstance(outcome, Fetched):
                self._on_done(OK, len(outcome.image.data))
                self._result_added.notify()
            elif isinstance(outcome, Moved):
                self._follow(job, outcome.url)
            else:
                self._try_again(host, job, outcome)
            self._hosts.release(host, self._clock())
            self._work_changed.notify()

    def _follow(self, job: Job, url: str) -> None:
        job.redirects += 1
        if job.redirects > MAX_REDIRECTS:
            self._fail(job.shard, job.row, GatherError("redirect", f"more than {MAX_REDIRECTS}"))
            return
        job.url = url
        self._put(host_of(url), job)

    def _try_again(self, host: str, job: Job, error: GatherError) -> None:
        job.failures += 1
        wait = self._rule.wait(error, job.failures)
        if wait is None:
            self._fail(job.shard, job.row, error)
            return
        now = self._clock()
        if error.retry_after:
            self._hosts.pause(host, now + error.retry_after)
        self._put(host, job, now + wait)

    def _put(self, host: str, job: Job, not_before: float = 0.0) -> None:
        self._hosts.put(host, job, not_before)
        self._work_changed.notify()

    def _fail(self, shard: GatheringShard, row: Row, error: GatherError) -> None:
        shard.add_failure(row, error)
        self._on_done(error.reason, 0)
        self._result_added.notify()

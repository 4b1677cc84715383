"""`robots.txt`: what a host lets us ask for, by RFC 9309.

Rules are fetched once a host and kept. Without a file everything is allowed; while the file cannot be had (the host is
down, or answers 5xx) nothing is, and the host is left alone for a while that grows with every failure.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

from clip_trainer.data.gather.errors import GatherError

MAX_CRAWL_DELAY = 10.0
"""Seconds between two requests at most, whatever a host's `Crawl-delay` asks for (RFC 9309 knows none)."""

_KEEP = 86_400.0  # seconds that rules hold, as the RFC has it
_FIRST_REST, _LONGEST_REST = 2.0, 600.0  # seconds that an unreachable host is left alone
_PERMANENT_REST = 600.0
_KEPT_HOSTS = 20_000

Load = Callable[[str], bytes]
"""The content of the robots.txt at an address. Raises GatherError."""


class RobotRules:
    """The rules of one host for one agent."""

    def __init__(self, text: str, agent: str) -> None:
        self._agent = agent
        self._parser = RobotFileParser()
        self._parser.parse(text.splitlines())

    def allow(self, url: str) -> bool:
        """Whether an address may be asked for."""
        return self._parser.can_fetch(self._agent, url)

    @property
    def crawl_delay(self) -> float:
        """Seconds between two requests that the host asks for, within reason."""
        return min(float(self._parser.crawl_delay(self._agent) or 0.0), MAX_CRAWL_DELAY)


@dataclass
class _Entry:
    """What is known of one host."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    rules: RobotRules | None = None
    error: GatherError | None = None
    until: float = 0.0
    failures: int = 0


class Robots:
    """The rules of all hosts; safe to share between threads.

    Args:
        load: fetches a robots.txt.
        agent: the product token that rules are looked up by.
        clock: seconds.
    """

    def __init__(self, load: Load, agent: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._load, self._agent, self._clock = load, agent, clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def check(self, url: str) -> float:
        """Ask for a host's rules if need be; the seconds it wants between two requests.

        Raises:
            GatherError: `robots` if the rules forbid the address; what went wrong with the rules if they are not known.
        """
        parts = urlsplit(url)
        entry = self._entry(f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}")
        with entry.lock:
            if self._clock() >= entry.until:
                self._refresh(entry, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/robots.txt")
            rules, error, until = entry.rules, entry.error, entry.until
        if error is not None:
            rest = until - self._clock() if error.transient else 0.0
            raise GatherError(
                error.reason, f"robots.txt: {error.detail}", transient=error.transient, retry_after=max(0.0, rest)
            )
        assert rules is not None, "an entry has rules or an error once it was refreshed"
        if not rules.allow(url):
            raise GatherError("robots", "robots.txt forbids it")
        return rules.crawl_delay

    def _entry(self, origin: str) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(origin, _Entry())
            self._entries.move_to_end(origin)
            if len(self._entries) > _KEPT_HOSTS:
                self._entries.popitem(last=False)
            return entry

    def _refresh(self, entry: _Entry, url: str) -> None:
        """Fetch the rules again."""
        entry.rules = entry.error = None
        try:
            text = self._load(url).decode("utf-8", "replace").removeprefix("\ufeff")
        except GatherError as error:
            if error.code is None or not 400 <= error.code < 500 or error.transient:
                entry.error = error
                entry.failures += 1
                grown = min(_LONGEST_REST, _FIRST_REST * 4.0 ** (entry.failures - 1))
                rest = max(grown, error.retry_after) if error.transient else _PERMANENT_REST
                entry.until = self._clock() + rest
                return
            text = ""  # there is none
        entry.rules, entry.failures = RobotRules(text, self._agent), 0
        entry.until = self._clock() + _KEEP

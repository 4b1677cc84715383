"""Bounded retries with full jitter: what counts is how often an attempt got nowhere, not how often one failed."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from clipctl.contract.errors import UnavailableError

_log = logging.getLogger(__name__)
T = TypeVar("T")


class BusyError(UnavailableError):
    """The service asks to be left alone for a while."""

    retry_after: float = 0.0  # seconds


class LastingError(UnavailableError):
    """The service cannot be used, and trying again will not mend it (an untrusted certificate)."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a request is repeated.

    Waits are drawn uniformly from `[0, min(cap, base * 2**k))` ("full jitter"), so that many workers that fail
    together do not come back together. A service that says how long to wait is waited for that long, up to
    `longest_request`.
    """

    attempts: int = 8  # in a row that got nowhere
    base: float = 0.1  # seconds
    cap: float = 10.0  # seconds
    longest_request: float = 60.0  # seconds of a `Retry-After`
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)

    def run(self, call: Callable[[], T], on_retry: Callable[[], None] = lambda: None) -> T:
        """The result of `call`, repeated while it raises `UnavailableError`.

        Raises:
            UnavailableError: the last attempt failed too.
        """
        failures = Failures(self)
        while True:
            try:
                return call()
            except UnavailableError as error:
                failures.wait_after(error)
                on_retry()


class Failures:
    """The failed attempts of one piece of work since it last got further."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._count = 0

    def progressed(self) -> None:
        """The work got further: earlier failures no longer count, so a link that dies again and again still does."""
        self._count = 0

    def wait_after(self, error: UnavailableError) -> None:
        """Sleep before the next attempt.

        Raises:
            UnavailableError: `error` itself, if there should be no next attempt.
        """
        policy = self._policy
        self._count += 1
        if self._count >= policy.attempts or isinstance(error, LastingError):
            raise error
        asked = min(error.retry_after, policy.longest_request) if isinstance(error, BusyError) else 0.0
        jitter = policy.draw() * min(policy.cap, policy.base * 2 ** (self._count - 1))
        # The jitter comes on top of what was asked for: everybody was told the same moment.
        _log.debug("%s Trying again in %.1f s.", error.problem, asked + jitter)
        policy.sleep(asked + jitter)

"""Bounded retries with full jitter."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from clipctl.contract.errors import UnavailableError

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a request is repeated.

    Waits are drawn uniformly from `[0, min(cap, base * 2**k))` ("full jitter"), so that many workers that fail
    together do not come back together.
    """

    attempts: int = 5
    base: float = 0.3  # seconds
    cap: float = 10.0  # seconds
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)

    def run(self, call: Callable[[], T], on_retry: Callable[[], None] = lambda: None) -> T:
        """The result of `call`, repeated while it raises `UnavailableError`.

        Raises:
            UnavailableError: the last attempt failed too.
        """
        for attempt in range(self.attempts - 1):
            try:
                return call()
            except UnavailableError:
                on_retry()
                self.sleep(self.draw() * min(self.cap, self.base * 2**attempt))
        return call()

"""Trying again what may succeed the next time: exponential waits with full jitter, a fixed number of attempts.

The wait before attempt n is uniform between 0 and `min(longest, first * 2**n)`, so that many clients that failed
together do not come back together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Retrying:
    """How often, and how long to wait in between.

    Attributes:
        attempts: how often in all.
        first: longest wait before the second attempt, seconds.
        longest: no wait is longer, seconds.
        sleep: waits for so many seconds.
        chance: uniform in [0, 1).
    """

    attempts: int = 5
    first: float = 0.5
    longest: float = 8.0
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random

    def call(self, action: Callable[[int], _Result], transient: Callable[[Exception], bool]) -> _Result:
        """The result of `action`, which is told the number of the attempt, from 0.

        Raises:
            Exception: what the last attempt raised, or the first error that is not transient.
        """
        attempt = 0
        while True:
            try:
                return action(attempt)
            except Exception as error:
                attempt += 1
                if attempt >= self.attempts or not transient(error):
                    raise
            self.sleep(self.chance() * min(self.longest, self.first * 2 ** (attempt - 1)))

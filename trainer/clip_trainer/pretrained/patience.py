"""When to try again and when to give up: full jitter, `Retry-After`, and a limit on time without progress."""

from __future__ import annotations

import logging
import random
import time

from clipctl.contract.errors import UnavailableError

_log = logging.getLogger(__name__)
_BASE = 0.5  # seconds
_CAP = 20.0  # seconds
_UNREACHED = 30.0  # seconds without any answer at all: most likely there is no network, and nobody waits for that


class Clock:
    """Time and chance, so that tests can replace both."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def draw(self) -> float:
        """A random number from 0 to 1."""
        return random.SystemRandom().random()


class TransientError(UnavailableError):
    """A failure that may be over in a moment."""

    retry_after: float = 0.0  # seconds that the server asked to wait
    unreachable: bool = False  # no connection could be made


class Patience:
    """Decides after each failure whether to try again.

    What is limited is the time without progress, not the number of attempts: a large file over a bad line fails often
    and still arrives.

    Args:
        give_up_after: seconds.
        clock: time and chance.
    """

    def __init__(self, give_up_after: float, clock: Clock) -> None:
        self._limit = give_up_after
        self._clock = clock
        self._failures = 0
        self._since = clock.monotonic()
        self._has_progressed = False

    def progressed(self) -> None:
        """Bytes arrived: what failed before no longer counts."""
        self._failures = 0
        self._since = self._clock.monotonic()
        self._has_progressed = True

    def wait_after(self, error: TransientError) -> None:
        """Sleep before the next attempt.

        Raises:
            UnavailableError: the time is used up.
        """
        delay = max(self._clock.draw() * min(_CAP, _BASE * 2**self._failures), error.retry_after)
        self._failures += 1
        hopeless = error.unreachable and not self._has_progressed
        limit = min(self._limit, _UNREACHED) if hopeless else self._limit
        if self._clock.monotonic() + delay >= self._since + limit:
            raise UnavailableError(
                f"{error.problem.rstrip('.')}; gave up after {limit:g} s without progress.",
                hint=error.hint or "Check the network and run it again; what arrived is kept.",
            ) from error
        _log.warning("%s Trying again in %.1f s.", error.problem, delay)
        self._clock.sleep(delay)

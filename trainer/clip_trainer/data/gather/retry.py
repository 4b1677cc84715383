"""Whether and when a failed request is made again: a rule, not a loop, since nobody waits in a thread for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from clip_trainer.data.gather.errors import GatherError


@dataclass(frozen=True)
class RetryRule:
    """How often and how patiently a row is tried again.

    Waits are drawn uniformly from `[0, min(cap, base * 2**k))` ("full jitter"), and are never shorter than what the
    host asks for.
    """

    retries: int = 2
    base: float = 1.0  # seconds
    cap: float = 30.0  # seconds
    patience: float = 120.0  # seconds; a host that asks for more has lost this row
    draw: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)

    def wait(self, error: GatherError, failures: int) -> float | None:
        """Seconds to wait before the next attempt; None to give up.

        Args:
            error: what happened.
            failures: how often the row failed, this time included.
        """
        if not error.transient or failures > self.retries or error.retry_after > self.patience:
            return None
        return max(error.retry_after, self.draw() * min(self.cap, self.base * 2.0 ** (failures - 1)))

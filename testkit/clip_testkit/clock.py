"""A clock that tests move by hand."""

from __future__ import annotations


class FakeClock:
    """Stands in for `time.time`, `time.monotonic` (call the object) and `time.sleep`.

    Args:
        now: what it shows at first, in seconds.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        """Seconds shown now."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass. A clock never runs backwards by itself; use `set_back` for a wall clock that was corrected."""
        assert seconds >= 0, "use set_back"
        self.now += seconds

    def set_back(self, seconds: float) -> None:
        """What NTP or an administrator does to a wall clock."""
        self.now -= seconds

    def sleep(self, seconds: float) -> None:
        """Let time pass as `time.sleep` would, and remember for how long."""
        self.slept.append(seconds)
        self.advance(seconds)

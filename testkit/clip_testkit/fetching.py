"""Settings for fetching weights in tests: a clock that does not wait, caches below one directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_testkit.clock import FakeClock
from clip_testkit.weightserver import WeightServer
from clip_trainer.pretrained.patience import Clock
from clip_trainer.pretrained.settings import FetchSettings


class ImpatientClock(Clock):
    """Time passes only by sleeping; chance always draws 1, the longest wait."""

    def __init__(self) -> None:
        self._clock = FakeClock()

    @property
    def slept(self) -> list[float]:
        """All waits, in seconds."""
        return self._clock.slept

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._clock()

    def sleep(self, seconds: float) -> None:
        """Let time pass without waiting."""
        self._clock.sleep(seconds)

    def draw(self) -> float:
        """See `Clock.draw`."""
        return 1.0


def fetch_settings(folder: Path, server: WeightServer | None = None, **overrides: Any) -> FetchSettings:
    """Settings with caches in `folder`, the server as the hub, and no patience with the real clock."""
    values: dict[str, Any] = {
        "hub_cache": folder / "hub",
        "url_cache": folder / "urls",
        "endpoint": "http://127.0.0.1:9" if server is None else server.url,
        "read_timeout": 60.0,
        "connect_timeout": 60.0,
        "give_up_after": 30.0,
        "clock": ImpatientClock(),
    }
    return FetchSettings(**{**values, **overrides})

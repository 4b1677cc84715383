"""Time stamps of the Kubernetes API: RFC 3339 text to Unix seconds and back."""

from __future__ import annotations

from datetime import datetime, timezone


def parse_time(text: object) -> float | None:
    """Unix seconds of an RFC 3339 time stamp; None for anything else (people edit annotations)."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()


def format_time(seconds: float) -> str:
    """Unix seconds as `2026-11-23T13:00:00Z`."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_micro_time(seconds: float) -> str:
    """Unix seconds as a MicroTime, the type of a Lease's fields."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

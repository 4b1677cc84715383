"""The lines that workers and the coordinator exchange: one JSON object each, at most 1 MiB, checked on arrival.

| from | `type` | meaning |
| --- | --- | --- |
| member | `hello` | who I am, and the generation I am in or was in last |
| member | `wait` | I am ready for the next generation |
| member | `open` | I lead, and the process group's store listens on this port |
| member | `beat` | I am alive |
| member | `leave` | I go in good order |
| member, observer | `close` | the run is over for everybody, with this exit code |
| observer | `observe` | tell me when the run is over |
| coordinator | `welcome` | and whether a generation is running |
| coordinator | `lead` | you will be rank 0: open a store |
| coordinator | `formed` | a generation, your rank in it, and where its store is |
| coordinator | `changed` | leave that generation at the next step boundary; at once if it is `broken` |
| coordinator | `dropped` | the others go on without you |
| coordinator | `closed` | the run is over |
| coordinator | `ping` | nothing; it makes the kernel notice a vanished machine |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Message = dict[str, Any]

MAX_LINE = 1 << 20
MAX_TEXT = 1024
MAX_WHOLE = 1 << 53
MAX_MEMBERS = 10_000

_FIELDS: Mapping[str, Mapping[str, str]] = {
    "hello": {
        "run": "text",
        "member": "text",
        "node": "text",
        "slot": "whole",
        "min_members": "whole",
        "max_members": "whole",
        "last_call": "seconds",
        "generation": "whole",
        "members": "texts",
    },
    "wait": {"generation": "whole"},
    "open": {"generation": "whole", "attempt": "whole", "port": "whole"},
    "beat": {},
    "leave": {},
    "close": {"code": "whole"},
    "observe": {"run": "text"},
    "welcome": {"running": "flag"},
    "lead": {"generation": "whole", "attempt": "whole"},
    "formed": {
        "generation": "whole",
        "rank": "whole",
        "members": "texts",
        "host": "text",
        "port": "whole",
    },
    "changed": {"generation": "whole", "broken": "flag"},
    "dropped": {"reason": "text"},
    "closed": {"code": "whole"},
    "ping": {},
}


class ProtocolError(Exception):
    """The other side does not speak this protocol."""


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message in a line, with all its fields and their types checked; unknown fields are kept.

    Raises:
        ProtocolError: it is no such message.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a line is not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError("a line is not an object with a type")
    fields = _FIELDS.get(message["type"])
    if fields is None:
        raise ProtocolError(f"there is no message of type {message['type'][:40]!r}")
    for name, kind in fields.items():
        if not _fits(message.get(name), kind):
            raise ProtocolError(f"{message['type']} has no {name} that is a {kind}")
    return message


def _fits(value: object, kind: str) -> bool:
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "text":
        return isinstance(value, str) and len(value) <= MAX_TEXT
    if kind == "texts":
        return isinstance(value, list) and len(value) <= MAX_MEMBERS and all(_fits(item, "text") for item in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value <= MAX_WHOLE and (kind == "seconds" or isinstance(value, int))


class LineBuffer:
    """Cuts a stream of bytes into lines."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends.

        Raises:
            ProtocolError: a line is longer than the limit.
        """
        self._rest += chunk
        *lines, rest = self._rest.split(b"\n") if b"\n" in chunk else [self._rest]
        self._rest = rest
        if any(len(line) > self._limit for line in (*lines, rest)):
            raise ProtocolError(f"a line is longer than {self._limit} bytes")
        return [bytes(line) for line in lines if line.strip()]

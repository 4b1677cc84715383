"""The agent's view of a run: whether it is over, and the word that ends it."""

from __future__ import annotations

import threading

from clip_trainer.elastic.coordinator_link import CoordinatorLink
from clip_trainer.elastic.member_settings import parse_endpoint
from clip_trainer.elastic.protocol import Message

FAREWELL_SECONDS = 2.0


class RunVerdict:
    """Watches run `run` at the coordinator `endpoint` (host:port) in the background; connects again for ever.

    Raises (constructor): SpecError if the endpoint is no address.
    """

    def __init__(self, endpoint: str, run: str) -> None:
        self._run = run
        self._said: int | None = None
        self._code: int | None = None
        self._known = threading.Event()
        self._link = CoordinatorLink(parse_endpoint(endpoint), self._greeting, self._heard)
        self._link.start()

    def close(self, code: int) -> None:
        """End the run for everybody with exit code `code`, once the coordinator can be told; the first decides."""
        if self._said is None:
            self._said = code
            self._link.send({"type": "close", "code": code})

    def closed(self) -> int | None:
        """The exit code the run was closed with; None as far as is known it goes on. Never waits."""
        return self._code

    def stop(self) -> None:
        """End the connection; if `close` was called, after a moment for the coordinator to hear it."""
        if self._said is not None:
            self._known.wait(FAREWELL_SECONDS)
        self._link.stop()

    def _greeting(self) -> list[Message]:
        greeting: list[Message] = [{"type": "observe", "run": self._run}]
        if self._said is not None:
            greeting.append({"type": "close", "code": self._said})
        return greeting

    def _heard(self, message: Message) -> None:
        if message["type"] == "closed":
            self._code = message["code"]
            self._known.set()

"""A membership that the coordinator decides, and that changes while the process lives."""

from __future__ import annotations

import threading
from collections.abc import Callable

from clip_trainer.elastic.coordinator_link import CoordinatorLink
from clip_trainer.elastic.member_settings import MemberSettings
from clip_trainer.elastic.membership import ClosedError, Generation
from clip_trainer.elastic.protocol import Message
from clipctl.contract.errors import TryAgainError, UnavailableError

FAREWELL_SECONDS = 5.0
"""Longest wait for the coordinator's word that a run is closed."""
_LOOK_SECONDS = 0.5


class CoordinatedMembership:
    """`Membership` by the coordinator's word.

    While no coordinator answers, the process stays in its generation. The coordinator's messages are acted on in a
    thread of their own, so that this process can lead, and break its group, while another thread trains or waits.

    Args:
        settings: who we are, and where the coordinator is.
        open_store: hosts a process group's store; returns it and its port. It is kept alive as long as needed.
        break_group: makes the collectives of a generation fail at once.
    """

    def __init__(
        self,
        settings: MemberSettings,
        open_store: Callable[[], tuple[object, int]],
        break_group: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._open_store = open_store
        self._break_group = break_group
        self._news = threading.Condition()
        self._number = 0
        self._members: tuple[str, ...] = ()
        self._waiting = False
        self._changed = False
        self._running: bool | None = None
        self._formed: Generation | None = None
        self._store: object | None = None
        self._dropped = ""
        self._code: int | None = None
        self._closing: int | None = None
        self._link = CoordinatorLink(settings.endpoint, self._greeting, self._heard)
        self._link.start()

    @property
    def running(self) -> bool:
        """See `Membership.running`; waits for the coordinator's word.

        Raises:
            UnavailableError: no coordinator answers.
        """
        self._wait_for(lambda: self._running is not None or self._code is not None)
        return bool(self._running)

    @property
    def local_rank(self) -> int:
        """See `Membership.local_rank`."""
        return self._settings.local_rank

    def next(self) -> Generation:
        """See `Membership.next`. The process group of the last generation must have been left before."""
        with self._news:
            self._formed, self._waiting = None, True
        self._link.send({"type": "wait", "generation": self._number})
        self._wait_for(lambda: self._formed is not None or self._code is not None or bool(self._dropped))
        if self._code is not None:
            raise ClosedError(self._code)
        if self._dropped:
            raise TryAgainError(f"The coordinator left {self._settings.member} out: {self._dropped}.")
        assert self._formed is not None
        return self._formed

    def changed(self) -> bool:
        """See `Membership.changed`."""
        return self._changed

    def leave(self) -> None:
        """See `Membership.leave`. The membership cannot be used afterwards."""
        self._link.send({"type": "leave"})
        self._link.stop()

    def close(self, code: int) -> None:
        """See `Membership.close`; waits a moment for the coordinator's word."""
        self._closing = code
        self._link.send({"type": "close", "code": code})
        with self._news:
            self._news.wait_for(lambda: self._code is not None, FAREWELL_SECONDS)
        self._link.stop()

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        with self._news:
            while not self._news.wait_for(condition, _LOOK_SECONDS):
                if self._link.down_seconds() > self._settings.seconds:
                    host, port = self._settings.endpoint
                    raise UnavailableError(
                        f"No coordinator has answered at {host}:{port} for {self._settings.seconds:g} s."
                    )

    def _greeting(self) -> list[Message]:
        settings = self._settings
        hello: Message = {
            "type": "hello",
            "run": settings.run,
            "member": settings.member,
            "node": settings.node,
            "slot": settings.slot,
            "min_members": settings.min_members,
            "max_members": settings.max_members,
            "last_call": settings.last_call,
            "generation": self._number,
            "members": list(self._members),
        }
        greeting = [hello]
        if self._waiting:
            greeting.append({"type": "wait", "generation": self._number})
        if self._closing is not None:
            greeting.append({"type": "close", "code": self._closing})
        return greeting

    def _heard(self, message: Message) -> None:
        """Act on a message, in the link's thread."""
        kind = message["type"]
        if kind == "lead":
            self._lead(message)
        elif kind == "changed":
            self._change(message["generation"], message["broken"])
        with self._news:
            if kind == "welcome" and self._running is None:
                self._running = message["running"]
            elif kind == "formed":
                self._enter(message)
            elif kind == "dropped":
                self._dropped, self._changed = message["reason"], True
            elif kind == "closed":
                self._code, self._changed = message["code"], True
            self._news.notify_all()
        if kind == "dropped" or (kind == "closed" and message["code"] != 0):
            self._break_group(self._number)
            self._link.stop()

    def _lead(self, message: Message) -> None:
        try:
            store, port = self._open_store()
        except TryAgainError:
            return  # the coordinator picks somebody else when there is no answer
        last, self._store = self._store, store
        self._link.send(
            {"type": "open", "generation": message["generation"], "attempt": message["attempt"], "port": port}
        )
        del last  # closing it takes a while

    def _change(self, generation: int, broken: bool) -> None:
        if generation != self._number or self._waiting or self._code is not None:
            return
        self._changed = True
        if broken:
            self._store = None  # peers that are still forming the group notice
            self._break_group(generation)

    def _enter(self, message: Message) -> None:
        members = tuple(message["members"])
        place = {"rank": message["rank"], "world": len(members), "host": message["host"], "port": message["port"]}
        self._formed = Generation(message["generation"], members=members, **place)
        self._number, self._members = message["generation"], members
        self._waiting = self._changed = False

"""Coordinates the worker processes of runs: connections and lines in, lines out, without IO of its own.

It keeps nothing on disk. Workers that lose it stay in their generation and tell its successor which one that is.
"""

from __future__ import annotations

from dataclasses import dataclass

from clip_trainer.elastic.protocol import Message, ProtocolError
from clip_trainer.elastic.run_members import RunMembers, Timing

MAX_RUNS = 1000
_LONG_GAP = 2.0
"""Seconds between two ticks that mean this process did not run; the server ticks several times a second."""


@dataclass
class _Peer:
    """One connection."""

    host: str
    run: str | None = None
    member: str | None = None
    """None: an observer, or somebody who has not said hello."""


@dataclass
class _Run:
    members: RunMembers
    code: int | None = None
    """The exit code the run was closed with."""


class Coordinator:
    """State of all runs.

    Args:
        timing: how long to wait for what.
        now: the time, by the same clock as every later `now`.
    """

    def __init__(self, timing: Timing, now: float) -> None:
        self._timing = timing
        self._start = self._last_tick = now
        self._peers: dict[int, _Peer] = {}
        self._runs: dict[str, _Run] = {}
        self._outbox: list[tuple[int, Message | None]] = []

    def connected(self, connection: int, host: str) -> None:
        """Somebody at address `host` has connected; `connection` is a number that is not used again."""
        self._peers[connection] = _Peer(host)

    def received(self, connection: int, message: Message, now: float) -> None:
        """A checked message has arrived.

        Raises:
            ProtocolError: it makes no sense at this point.
        """
        self._excuse_gap(now)  # before the first of many messages that have waited: the next ones may be what is missed
        peer = self._peers.get(connection)
        if peer is None:
            return  # it was sent away, and does not know yet
        if peer.run is None:
            self._introduce(connection, peer, message, now)
        elif message["type"] == "close":
            self._close(peer.run, message["code"])
        elif peer.member is not None:
            self._member_says(peer, message, now)

    def disconnected(self, connection: int, now: float) -> None:
        """A connection has ended: its member is gone."""
        self._excuse_gap(now)
        peer = self._peers.pop(connection, None)
        if peer is None or peer.run is None or peer.member is None:
            return
        run = self._runs[peer.run]
        if run.code is not None:
            return  # who finishes first must not break the last step of the others
        member = run.members.members.get(peer.member)
        if member is not None and member.connection == connection:
            run.members.gone(peer.member, now)

    def tick(self, now: float) -> None:
        """Let time pass. To be called several times a second, after what has arrived was passed on."""
        self._excuse_gap(now)
        self._last_tick = now
        for run in self._runs.values():
            if run.code is not None:
                continue
            for connection in run.members.tick(now):
                self._outbox.append((connection, None))

    def take(self) -> list[tuple[int, Message | None]]:
        """What to send to which connection since the last call, in order; None: close the connection."""
        taken, self._outbox = self._outbox, []
        return [(connection, message) for connection, message in taken if connection in self._peers]

    def _excuse_gap(self, now: float) -> None:
        gap = now - self._last_tick
        if gap > _LONG_GAP:
            self._last_tick = now
            for run in self._runs.values():
                run.members.excuse(gap)

    @property
    def has_more(self) -> bool:
        """Whether `take` would return something."""
        return bool(self._outbox)

    def _introduce(self, connection: int, peer: _Peer, message: Message, now: float) -> None:
        if message["type"] not in ("hello", "observe"):
            raise ProtocolError(f"{message['type']} came before hello")
        run = self._run(message["run"])
        peer.run = message["run"]
        if run.code is not None:
            self._send(connection, {"type": "closed", "code": run.code})
        elif message["type"] == "hello":
            peer.member = message["member"]
            run.members.hello(connection, peer.host, message, now)

    def _member_says(self, peer: _Peer, message: Message, now: float) -> None:
        assert peer.run is not None
        assert peer.member is not None
        run = self._runs[peer.run]
        member = run.members.members.get(peer.member)
        if run.code is not None or member is None or self._peers.get(member.connection) is not peer:
            return  # the run is closed, the member was dropped, or it has connected again
        member.seen = now
        if message["type"] == "wait":
            run.members.wait(peer.member, message["generation"], now)
        elif message["type"] == "open":
            run.members.opened(peer.member, message, now)
        elif message["type"] == "leave":
            run.members.gone(peer.member, now)

    def _close(self, name: str, code: int) -> None:
        run = self._runs[name]
        if run.code is None:
            run.code = code
            for connection, peer in self._peers.items():
                if peer.run == name:
                    self._send(connection, {"type": "closed", "code": code})

    def _run(self, name: str) -> _Run:
        if name not in self._runs:
            self._forget_runs()
            self._runs[name] = _Run(RunMembers(self._timing, self._send, self._start))
        return self._runs[name]

    def _forget_runs(self) -> None:
        """Forget the oldest run that nobody is connected for, when there are too many."""
        used = {peer.run for peer in self._peers.values()}
        idle = [name for name in self._runs if name not in used]
        if len(self._runs) >= MAX_RUNS and idle:
            del self._runs[idle[0]]

    def _send(self, connection: int, message: Message) -> None:
        self._outbox.append((connection, message))

"""The members of one run and the generations they form: a state machine that does no IO.

A generation forms once at least the minimum waits for it and nobody of the running one has still to come. Members that
are lost break the running generation; newcomers only end it at its next step boundary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from clip_trainer.elastic.protocol import Message
from clipctl.contract.failpoints import failpoint

Send = Callable[[int, Message], None]


@dataclass(frozen=True)
class Timing:
    """Durations in seconds."""

    beat: float = 10.0
    """A member that sends nothing for so long is lost. A vanished machine is noticed sooner, by the kernel."""
    patience: float = 10.0
    """Members of the running generation get so long to come once the first of them waits."""
    reconnect: float = 5.0
    """A new coordinator awaits the members it hears of for so long."""
    settle: float = 3.0
    """A new coordinator forms no first generation before: there may be one that has yet to reconnect."""


class Stage(Enum):
    """What a connected member does."""

    PREPARING = "not to be waited for yet"
    WAITING = "ready for the next generation"
    INSIDE = "in the running generation"


@dataclass
class Member:
    """One connected worker process."""

    name: str
    node: str
    slot: int
    host: str
    connection: int
    seen: float
    stage: Stage = Stage.PREPARING
    was_in: int = 0
    """The last generation it was in; 0 if it has no state yet."""
    told: int = 0
    """What it knows about the running generation: 1 that it ends, 2 that it is broken."""


@dataclass(frozen=True)
class _Forming:
    """A generation whose leader has been asked to open a store."""

    number: int
    attempt: int
    names: tuple[str, ...]
    since: float


class RunMembers:
    """The members of one run.

    Args:
        timing: how long to wait for what.
        send: queues a message for a connection.
        now: time of the coordinator's start.
    """

    def __init__(self, timing: Timing, send: Send, now: float) -> None:
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.roster: tuple[str, ...] = ()
        self._timing = timing
        self._send = send
        self._start = now
        self._floor = 0
        self._attempts = 0
        self._minimum, self._maximum, self._last_call = 1, 1, 0.0
        self._unseen: dict[str, float] = {}
        self._broken = False
        self._forming: _Forming | None = None
        self._patience_since: float | None = None
        self._enough_since: float | None = None

    def hello(self, connection: int, host: str, message: Message, now: float) -> None:
        """A worker process has connected, for the first time or again."""
        generation, names = message["generation"], tuple(message["members"])
        self._minimum, self._maximum = max(1, message["min_members"]), message["max_members"]
        self._last_call = message["last_call"]
        member = Member(message["member"], message["node"], message["slot"], host, connection, now)
        self._replace(member, generation)
        running = bool(self._unseen) or any(other.was_in for other in self.members.values())
        self.members[member.name] = member
        self._unseen.pop(member.name, None)
        self._send(connection, {"type": "welcome", "running": running})
        if generation:
            self._return(member, generation, names, now)
        elif member.name in self.roster:
            self._broken = True  # a new process under the name of one that is in the generation
        self._consider(now)

    def wait(self, name: str, generation: int, now: float) -> None:
        """A member is ready for the next generation; `generation` is the last one it was in."""
        member = self.members[name]
        if member.stage is Stage.INSIDE and generation < member.was_in:
            return  # it was formed into one that it has yet to read about
        member.stage, member.was_in = Stage.WAITING, generation
        if generation and generation == self.generation and self._patience_since is None:
            self._patience_since = now
        self._consider(now)

    def opened(self, name: str, message: Message, now: float) -> None:
        """The leader's store listens. Answers to questions that are no longer asked are ignored."""
        forming = self._forming
        if forming is None or (name, message["attempt"]) != (forming.names[0], forming.attempt):
            return
        self._form(forming, self.members[name].host, message["port"])
        self._consider(now)

    def gone(self, name: str, now: float) -> None:
        """A member has left or was lost."""
        self._remove(self.members[name])
        self._consider(now)

    def tick(self, now: float) -> list[int]:
        """Let time pass; returns the connections of members that have been silent for too long."""
        silent = [member for member in self.members.values() if now - member.seen > self._timing.beat]
        for member in silent:
            self._remove(member)
        overdue = [name for name, until in self._unseen.items() if now >= until]
        for name in overdue:
            del self._unseen[name]
            self._broken = True
        self._consider(now)
        return [member.connection for member in silent]

    def excuse(self, seconds: float) -> None:
        """The coordinator itself did not run for so long: nobody's silence counts, nor that nobody came meanwhile."""
        for member in self.members.values():
            member.seen += seconds
        self._unseen = {name: until + seconds for name, until in self._unseen.items()}
        if self._patience_since is not None:
            self._patience_since += seconds
        if self._enough_since is not None:
            self._enough_since += seconds
        if self._forming is not None:
            self._forming = replace(self._forming, since=self._forming.since + seconds)

    def _replace(self, member: Member, generation: int) -> None:
        """Forget the connection that this one replaces: its own old one, or a dead process's in the same slot."""
        for old in list(self.members.values()):
            if old.name == member.name and generation:
                del self.members[old.name]
            elif old.name == member.name or (old.node, old.slot) == (member.node, member.slot):
                self._remove(old)
                self._send(old.connection, {"type": "dropped", "reason": "another process took this one's place"})

    def _return(self, member: Member, generation: int, names: tuple[str, ...], now: float) -> None:
        """A member that is or was in a generation has connected again, perhaps to a new coordinator."""
        member.was_in = generation
        if generation > self.generation or self._was_cut_off(member, generation, names):
            self._adopt(member, generation, names, now)
        if generation == self.generation and names == self.roster:
            member.stage = Stage.INSIDE
            return
        self._broken = self._broken or member.name in self.roster
        self._send(member.connection, {"type": "changed", "generation": generation, "broken": True})

    def _was_cut_off(self, member: Member, generation: int, names: tuple[str, ...]) -> bool:
        """Whether all of the running generation were missed together: it was the coordinator that was out of reach."""
        others = [name for name in names if name != member.name]
        return (generation, names) == (self.generation, self.roster) and not any(n in self.members for n in others)

    def _adopt(self, member: Member, generation: int, names: tuple[str, ...], now: float) -> None:
        """Learn of a generation that an earlier coordinator formed, or this one before nobody could reach it.

        The last words before may have been about one more.
        """
        self.generation, self._floor, self.roster = generation, generation + 1, names
        self._broken, self._forming, self._patience_since = False, None, None
        self._unseen = {name: now + self._timing.reconnect for name in names if name not in self.members}
        for other in self.members.values():
            if other is member:
                continue
            self._broken = self._broken or other.name in names
            if other.stage is Stage.INSIDE:
                other.stage = Stage.PREPARING
                self._send(other.connection, {"type": "changed", "generation": other.was_in, "broken": True})

    def _remove(self, member: Member) -> None:
        failpoint("elastic.member_gone")
        del self.members[member.name]
        self._broken = self._broken or member.stage is Stage.INSIDE

    def _inside(self) -> list[Member]:
        return [member for member in self.members.values() if member.stage is Stage.INSIDE]

    def _waiting(self) -> list[Member]:
        return [member for member in self.members.values() if member.stage is Stage.WAITING]

    def _consider(self, now: float) -> None:
        """Tell and form whatever is due."""
        self._keep_forming(now)
        self._nudge(now)
        self._announce()
        if self._forming is not None:
            return
        waiting = self._waiting()
        if len(waiting) < self._minimum:
            self._enough_since = None
        elif self._all_here(now) and self._last_call_over(waiting, now):
            self._lead(waiting, now)

    def _keep_forming(self, now: float) -> None:
        """Give up on a generation that misses a member by now, or whose leader does not answer."""
        forming = self._forming
        if forming is None:
            return
        waiting = {member.name for member in self._waiting()}
        if waiting.issuperset(forming.names) and now - forming.since <= self._timing.patience:
            return
        self._forming = None
        if waiting.issuperset(forming.names):
            self._drop(self.members[forming.names[0]], "no store was opened for the process group in time")

    def _nudge(self, now: float) -> None:
        """Whoever is still inside long after the first one came waits in a collective that will not end."""
        since = self._patience_since
        if since is not None and now - since > self._timing.patience / 2 and self._inside():
            self._broken = True

    def _announce(self) -> None:
        level = 2 if self._broken else int(bool(self._waiting()))
        for member in self._inside():
            if member.told < level:
                member.told = level
                message = {"type": "changed", "generation": self.generation, "broken": self._broken}
                self._send(member.connection, message)

    def _all_here(self, now: float) -> bool:
        """Whether nobody of the running generation is awaited any more; drops those who took too long."""
        inside = self._inside()
        if not inside and not self._unseen:
            return True
        if self._patience_since is None or now - self._patience_since <= self._timing.patience:
            return False
        self._unseen.clear()
        for member in inside:
            self._drop(member, "it did not leave the last generation in time")
        return True

    def _last_call_over(self, waiting: list[Member], now: float) -> bool:
        """Without state to go on with, it is worth to wait a moment for more members."""
        if any(member.was_in for member in waiting):
            return True
        if self.generation == 0 and now - self._start < self._timing.settle:
            return False
        if self._enough_since is None:
            self._enough_since = now
        return len(waiting) >= self._maximum or now - self._enough_since >= self._last_call

    def _lead(self, waiting: list[Member], now: float) -> None:
        names = tuple(member.name for member in sorted(waiting, key=self._order))
        failpoint("elastic.lead")
        self._attempts += 1
        number = max(self.generation, self._floor) + 1
        self._forming = _Forming(number, self._attempts, names, now)
        leader = self.members[names[0]]
        if len(names) == 1:
            self._form(self._forming, leader.host, 0)  # alone, no process group is needed
            return
        self._send(leader.connection, {"type": "lead", "generation": number, "attempt": self._attempts})

    def _order(self, member: Member) -> tuple[object, ...]:
        """Survivors keep their order, so that whoever has the state is first; then newcomers by place."""
        survives = member.was_in == self.generation and member.name in self.roster
        place = [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", member.node)]
        return (not survives, self.roster.index(member.name) if survives else 0, place, member.slot, member.name)

    def _form(self, forming: _Forming, host: str, port: int) -> None:
        failpoint("elastic.form")
        self.generation, self.roster = forming.number, forming.names
        self._forming, self._broken = None, False
        self._patience_since = self._enough_since = None
        for rank, name in enumerate(forming.names):
            member = self.members[name]
            member.stage, member.was_in, member.told = Stage.INSIDE, forming.number, 0
            place = {"rank": rank, "members": list(forming.names), "host": host, "port": port}
            self._send(member.connection, {"type": "formed", "generation": forming.number, **place})

    def _drop(self, member: Member, reason: str) -> None:
        self._remove(member)
        self._send(member.connection, {"type": "dropped", "reason": reason})

"""A made-up node for tests of the agent: workers without processes, a clock that only moves when somebody sleeps."""

from __future__ import annotations

import heapq
import itertools
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from clip_trainer.elastic.agent import Agent, Hooks, Outcome
from clip_trainer.elastic.beacon import Reading
from clip_trainer.elastic.slot import Slot, SlotHooks
from clip_trainer.elastic.watchdog import HealthLimits


@dataclass
class FakeWorker:
    """One start of one slot. Its beacon stays fresh until `silent_since` is set.

    Attributes:
        on_term: the status it ends with after SIGTERM; None ignores the signal.
    """

    node: FakeNode
    slot: int
    start: int
    on_term: int | None = 75
    on_kill: int | None = -9
    status: int | None = None
    ended_at: float | None = None
    words: str = ""
    beacon: Reading | None = None
    silent_since: float | None = None
    process_state: str = "S"
    signals: list[signal.Signals] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """A number of its own."""
        return 1000 + 100 * self.slot + self.start

    def end(self, status: int) -> None:
        """End now."""
        if self.status is None:
            self.status = status

    def enter(self, rank: int | None = None, generation: int = 1) -> None:
        """Show a beacon in the group, as rank `rank` (default: the slot's number)."""
        now = self.node.now
        rank = self.slot if rank is None else rank
        self.beacon = Reading("compute", now, now, False, now, step=7, generation=generation, rank=rank, steps=9)

    def poll(self) -> int | None:
        """See `slot.Process`."""
        if self.status is not None and self.ended_at is None:
            self.ended_at = self.node.now
        return self.status

    def reading(self) -> Reading | None:
        """See `slot.Process`."""
        if self.beacon is None:
            return None
        heard = self.node.now if self.silent_since is None else self.silent_since
        return replace(self.beacon, heartbeat=heard, changed=heard)

    def state(self) -> str:
        """See `slot.Process`."""
        return self.process_state

    def send(self, number: signal.Signals) -> None:
        """See `slot.Process`."""
        self.signals.append(number)
        if number == signal.SIGTERM and self.on_term is not None:
            self.end(self.on_term)

    def kill(self) -> None:
        """See `slot.Process`."""
        if self.on_kill is not None:
            self.end(self.on_kill)

    def last_words(self) -> str:
        """See `slot.Process`."""
        return self.words


class FakeVerdict:
    """A run's verdict that everybody hears of at once."""

    def __init__(self) -> None:
        self.code: int | None = None

    def close(self, code: int) -> None:
        """See `agent.Verdict`."""
        if self.code is None:
            self.code = code

    def closed(self) -> int | None:
        """See `agent.Verdict`."""
        return self.code


class FakeNode:
    """An agent with `slots` slots, whose workers do what `script` says when they are started.

    Attributes:
        script: called for every worker that starts; may plan its fate with `at` and `after`.
        committed: newest safely stored step.
        oom_kills: the kernel's counter.
    """

    def __init__(self, slots: int = 2, max_restarts: int = 2, grace: float = 20.0) -> None:
        self.now = 1000.0
        self.log: list[str] = []
        self.verdict = FakeVerdict()
        self.committed = -1
        self.oom_kills = 0
        self.workers: list[FakeWorker] = []
        self.started_at: list[float] = []
        self.script: Callable[[FakeWorker], None] = lambda worker: None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        hooks = SlotHooks(self._spawn, lambda: self.committed, self.log.append)
        self.slots = [Slot(number, max_restarts, HealthLimits(), hooks) for number in range(slots)]
        world = Hooks(self.verdict, lambda: self.oom_kills, self.log.append, lambda: self.now, self._sleep)
        self.agent = Agent(self.slots, grace, 0.1, world)

    def run(self) -> Outcome:
        """Run the agent to its end."""
        return self.agent.run()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something after some seconds."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action))

    def of(self, slot: int) -> list[FakeWorker]:
        """All workers that were started in a slot."""
        return [worker for worker in self.workers if worker.slot == slot]

    def running(self) -> list[FakeWorker]:
        """Workers that have not ended."""
        return [worker for worker in self.workers if worker.status is None]

    def _spawn(self, slot: int, start: int) -> FakeWorker:
        worker = FakeWorker(self, slot, start)
        self.workers.append(worker)
        self.started_at.append(self.now)
        self.script(worker)
        return worker

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 1e6, "the agent never ends"
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

"""A worker without torch that behaves like the trainer as far as agent and coordinator can tell; it starts in 0.1 s.

It goes through generations and takes lock-step "steps". When a peer is lost it keeps its step in memory and goes on
with the others; newcomers get the step from them. Everything is under $PROBE_DIR:

- `checkpoint`: the newest safe step, written by rank 0 every 5 steps and on a stop;
- `ledger.jsonl`: one line per event: time, event, step, rank, world, generation, pid, attempt. `start` is a process's
  first generation, `enter` every other one;
- `fail-RANK`: its content is an exit status (or `hang`) that this rank takes at its next step, once;
- `always-fail`: exit status that every worker takes at once whenever it starts.

Environment: PROBE_STEPS (default 50), PROBE_STEP_SECONDS (default 0.02).
"""

from __future__ import annotations

import enum
import json
import os
import signal
import sys
import time
from pathlib import Path

from clip_testkit.probering import Ring, Rings
from clip_trainer.elastic.beacon import beacon_from_environment
from clip_trainer.elastic.coordinated_membership import CoordinatedMembership
from clip_trainer.elastic.member_settings import MemberSettings
from clip_trainer.elastic.membership import ClosedError, Generation
from clip_trainer.elastic.progress import report_progress
from clipctl.contract.errors import ClipError, ExitCode, TryAgainError

DIRECTORY = Path(os.environ["PROBE_DIR"])
STEPS = int(os.environ.get("PROBE_STEPS", "50"))
STEP_SECONDS = float(os.environ.get("PROBE_STEP_SECONDS", "0.02"))

_STOP, _REGROUP = 1, 2
_NOWHERE = Generation(0, -1, 0, (), "", 0)


class End(enum.Enum):
    """Why a generation was left in good order."""

    DONE = enum.auto()
    STOPPED = enum.auto()
    REGROUP = enum.auto()


class Probe:
    """One worker.

    Args:
        membership: its place in the group.
        rings: its process groups.
    """

    def __init__(self, membership: CoordinatedMembership, rings: Rings) -> None:
        self._membership = membership
        self._rings = rings
        self._beacon = beacon_from_environment()
        self._stopping = self._between = False
        self._place = _NOWHERE
        self._step = read_checkpoint()
        signal.signal(signal.SIGTERM, self._stop)

    def run(self) -> int:
        """Train; returns the exit status."""
        event = "start"
        while not self._stopping:
            self._meet()
            end = self._train(event)
            event = "enter"
            if end is End.DONE:
                note("done", self._step, self._place)
                self._membership.close(ExitCode.OK)
                return ExitCode.OK
        note("stopped", self._step, self._place)
        self._membership.leave()
        return ExitCode.TRY_AGAIN

    def _meet(self) -> None:
        self._beacon.phase("idle")
        self._between = True
        self._place = self._membership.next()
        self._between = False
        self._beacon.entered(self._place.number, self._place.rank)

    def _train(self, event: str) -> End:
        try:
            with Ring(self._rings, self._place) as ring:
                return self._generation(ring, event)
        except OSError as error:
            print(f"lost a peer: {error}", flush=True)
            return End.REGROUP

    def _generation(self, ring: Ring, event: str) -> End:
        self._step = ring.largest(self._step)
        report_progress(read_checkpoint())
        note(event, self._step, self._place)
        print(f"rank {self._place.rank} of {self._place.world} starts at step {self._step}", flush=True)
        while self._step < STEPS:
            self._beacon.phase("compute", self._step)
            time.sleep(STEP_SECONDS)
            take_fault(self._step, self._place)
            flags = ring.union(_STOP * self._stopping | _REGROUP * self._membership.changed())
            self._step += 1
            note("step", self._step, self._place)
            if flags & _STOP or self._step % 5 == 0 or self._step == STEPS:
                self._save()
            if flags:
                return End.STOPPED if self._stopping else End.REGROUP
        ring.union(0)  # nobody goes before the last step is safe
        return End.DONE

    def _save(self) -> None:
        """Make the step safe."""
        if self._place.rank == 0:
            staged = DIRECTORY / "checkpoint.new"
            staged.write_text(str(self._step))
            staged.replace(DIRECTORY / "checkpoint")
        report_progress(self._step)

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True
        if self._between:
            note("stopped", self._step, self._place)
            raise TryAgainError("stopped between two groups.")


def read_checkpoint() -> int:
    """The newest safe step; 0 if there is none."""
    file = DIRECTORY / "checkpoint"
    return int(file.read_text()) if file.exists() else 0


def note(event: str, step: int, place: Generation) -> None:
    """Append one event to the ledger; lines this short are written atomically."""
    line = {"t": time.time(), "event": event, "step": step, "rank": place.rank, "world": place.world}
    line |= {"generation": place.number, "pid": os.getpid(), "attempt": int(os.environ.get("CLIPCTL_ATTEMPT", "1"))}
    with (DIRECTORY / "ledger.jsonl").open("a") as ledger:
        ledger.write(json.dumps(line) + "\n")


def take_fault(step: int, place: Generation) -> None:
    """Do what a `fail-RANK` file says, once."""
    file = DIRECTORY / f"fail-{place.rank}"
    what = file.read_text().strip() if file.exists() else ""
    if not what:  # absent, or its writer has not finished yet
        return
    file.unlink()
    note(f"fault {what}", step, place)
    if what == "hang":
        while True:
            signal.pause()
    os._exit(int(what))


def main() -> int:
    """Run the probe; returns the exit status."""
    always = DIRECTORY / "always-fail"
    if always.exists():
        note("fault always", 0, _NOWHERE)
        return int(always.read_text())
    rings = Rings()
    try:
        settings = MemberSettings.from_environment(os.environ)
        return Probe(CoordinatedMembership(settings, rings.open_store, rings.cut), rings).run()
    except ClosedError as error:
        return error.code
    except ClipError as error:
        print(f"error: {error}", flush=True)
        return error.code


if __name__ == "__main__":
    sys.exit(main())

"""Kill a process that saves checkpoints, again and again, and look at what is left.

    python benchmarks/save_kills.py --kills 1000 --seed 1 --ranks 2

Each round forks the ranks of a worker group from this process, which has torch imported already. They save one
checkpoint after the other to a folder, until SIGKILL hits one of them: at a random moment of a save, or at a failpoint.
The others follow a moment later. Then the newest committed checkpoint must verify, must hold exactly the values of its
step, and must not be older than the last one that a rank reported as committed. The next round continues from there.
The same seed makes the same choices; where in the code a random moment falls is up to the machine.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from clip_testkit.tinystate import incarnate, newest_state, same, saver, state_at
from clip_trainer.checkpoint.save import Saved
from clip_trainer.checkpoint.tensors import Tensors
from clipctl.contract import failpoints
from clipctl.contract.commits import Rejection, list_checkpoints
from clipctl.contract.failpoint_names import NAMES
from clipctl.contract.layout import CheckpointId, commit_key
from clipctl.contract.store_local import LocalStore

PLACES = sorted(name for name in NAMES if name.startswith(("checkpoint.", "store.local.")))
PATIENCE = 60.0
_KEEP = 3


@dataclass
class Tally:
    """What was seen so far."""

    kills: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    reported: int = 0
    in_flight_committed: int = 0
    in_flight_lost: int = 0
    wrong: int = 0
    rejected: int = 0
    lost: int = 0

    @property
    def failures(self) -> int:
        """Anything that must not happen."""
        return self.wrong + self.rejected + self.lost


@dataclass
class Rank:
    """A forked process: it writes `B step` when it begins a save, and `S step` when that is committed."""

    pid: int
    messages: int
    text: str = ""
    ended: bool = False

    def read(self, seconds: float) -> bool:
        """Take what it has written, waiting at most `seconds`; False once it is dead and everything was taken."""
        if not select.select([self.messages], [], [], seconds)[0]:
            return True
        data = os.read(self.messages, 1 << 16)
        self.text += data.decode()
        self.ended = not data
        return bool(data)

    def steps(self, kind: str) -> list[int]:
        """Of all complete messages of a kind."""
        lines = self.text[: self.text.rfind("\n") + 1].splitlines()
        return [int(line[2:]) for line in lines if line.startswith(kind)]


def state_of(step: int, megabytes: float) -> dict[str, Tensors]:
    """Small tensors of many kinds, and one of `megabytes` in which every element tells the step."""
    parts = state_at(step)
    parts["weights"]["bulk"] = torch.arange(int(megabytes * 2**18), dtype=torch.float32) + step
    return parts


def save_for_ever(root: str, rank: int, world: int, incarnation: int, first: int, megabytes: float, tell: int) -> None:
    """The life of a rank."""
    store = LocalStore(root)
    checkpointer = saver(store, incarnation, rank=rank, world=world, keep=_KEEP)
    step = first
    while True:
        parts = state_of(step, megabytes)
        os.write(tell, f"B {step}\n".encode())
        checkpointer.start(step, step * 12, parts, {"step": step}, {})
        checkpointer.wait()
        for outcome in checkpointer.poll():
            if not isinstance(outcome, Saved):
                sys.exit(f"rank {rank}: {outcome.error}")
            os.write(tell, f"S {outcome.checkpoint.step}\n".encode())
        key = os.path.join(root, commit_key(CheckpointId(step, incarnation)))
        while rank and not os.path.exists(key):  # training keeps ranks together; here storage does
            time.sleep(0.0005)
        step += 1


def fork(life: Callable[[int], None], rule: str) -> Rank:
    """A process that lives `life`, in which the failpoints of `rule` are armed."""
    here, there = os.pipe()
    pid = os.fork()
    if pid:
        os.close(there)
        return Rank(pid, here)
    try:
        os.close(here)
        if rule:
            with failpoints.armed(rule):
                life(there)
        else:
            life(there)
    except BaseException as error:
        os.write(2, f"a rank ended: {error}\n".encode())
    finally:
        os._exit(1)


def one_round(root: str, options: argparse.Namespace, rng: random.Random, tally: Tally, usual: list[float]) -> None:
    """Start a group, kill it, and check what it has left."""
    store = LocalStore(root)
    committed = list_checkpoints(store)
    first = committed[-1].step + 1 if committed else 1
    incarnation = incarnate(store)
    victim = rng.randrange(options.ranks)
    at_failpoint, place, hit = rng.random() < options.failpoints, rng.choice(PLACES), rng.randint(1, 3)
    saves, moment, delay = rng.randint(1, 3), rng.uniform(0.0, 1.3), rng.uniform(0.0, 1.3)

    def life(rank: int) -> Callable[[int], None]:
        return lambda tell: save_for_ever(root, rank, options.ranks, incarnation, first, options.megabytes, tell)

    rules = [f"{place}=kill@{hit}" if at_failpoint and rank == victim else "" for rank in range(options.ranks)]
    ranks = [fork(life(rank), rules[rank]) for rank in range(options.ranks)]
    typical = sorted(usual[-50:])[len(usual[-50:]) // 2] if usual else 0.02
    began = wait_for(ranks[victim], saves, usual)
    if began is not None:
        if at_failpoint:  # unless it was reached, which the pipe shows by its end
            until = time.monotonic() + 6 * typical
            while time.monotonic() < until and ranks[victim].read(typical / 4):
                pass
        else:
            time.sleep(max(0.0, began + moment * typical - time.monotonic()))
    kind = "failpoint" if ranks[victim].ended else "moment"
    tally.places.update([place] if kind == "failpoint" else [])
    kill(ranks[victim])
    time.sleep(delay * typical)
    for rank in ranks:
        kill(rank)
        while rank.read(PATIENCE):
            pass
        os.close(rank.messages)
    tally.kills[kind] += 1
    check(store, ranks[0], options.megabytes, tally)


def wait_for(rank: Rank, saves: int, usual: list[float]) -> float | None:
    """Wait until it has begun that many saves; when the last began. None if it died before."""
    until, last, seen = time.monotonic() + PATIENCE, time.monotonic(), 0
    while time.monotonic() < until:
        if not rank.read(1.0):
            return None
        now, begun = time.monotonic(), len(rank.steps("B"))
        if begun > seen:
            if seen and begun == seen + 1:
                usual.append(now - last)
            seen, last = begun, now
        if begun >= saves:
            return last
    raise SystemExit(f"no rank began {saves} saves within {PATIENCE:.0f} s")


def kill(rank: Rank) -> None:
    """End it, if it has not ended by itself."""
    if rank.pid > 0:
        os.kill(rank.pid, signal.SIGKILL)  # no harm if it is dead: its id is not free before it is waited for
        os.waitpid(rank.pid, 0)
        rank.pid = -1


def check(store: LocalStore, first: Rank, megabytes: float, tally: Tally) -> None:
    """Compare what is stored with what must be."""
    rejected: list[Rejection] = []
    found = newest_state(store, rejected)
    for rejection in rejected:
        print(f"REJECTED {rejection.checkpoint}: {rejection.problem}", flush=True)
    tally.rejected += len(rejected)
    reported, begun = first.steps("S"), first.steps("B")
    tally.reported += len(reported)
    newest = found[0].step if found is not None else 0
    if reported and newest < reported[-1]:
        print(f"LOST step {reported[-1]}: the newest is {newest}", flush=True)
        tally.lost += 1
    if found is not None and not same(found[1], state_of(newest, megabytes)):
        print(f"WRONG values in {found[0]}", flush=True)
        tally.wrong += 1
    if begun and begun[-1] not in reported:
        if newest >= begun[-1]:
            tally.in_flight_committed += 1
        else:
            tally.in_flight_lost += 1


def main() -> int:
    """Entry point; 1 if anything was lost, damaged or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--megabytes", type=float, default=1.0, help="of the state, default 1")
    parser.add_argument("--failpoints", type=float, default=0.5, help="share of kills at failpoints, default 0.5")
    options = parser.parse_args()
    torch.set_num_threads(1)  # this process forks: it must not have threads
    rng, tally, usual = random.Random(options.seed), Tally(), list[float]()
    root = tempfile.mkdtemp(prefix="save-kills-")
    started = time.monotonic()
    try:
        for number in range(options.kills):
            one_round(root, options, rng, tally, usual)
            if (number + 1) % 100 == 0:
                print(f"{number + 1} kills, {tally.failures} failures", flush=True)
    finally:
        shutil.rmtree(root)
    seconds = time.monotonic() - started
    print(f"seed {options.seed}, {options.ranks} ranks, {options.megabytes:g} MiB: {seconds:.0f} s")
    table = {
        "Kills": options.kills,
        "at a random moment": tally.kills["moment"],
        "at a failpoint": tally.kills["failpoint"],
        "failpoints": f"{len(tally.places)} of {len(PLACES)}",
        "Commits reported": tally.reported,
        "Save in flight was committed": tally.in_flight_committed,
        "was not": tally.in_flight_lost,
        "Newest rejected": tally.rejected,
        "Restored wrong": tally.wrong,
        "Commits lost": tally.lost,
    }
    for row in (table.keys(), ["---"] * len(table), table.values()):
        print("| " + " | ".join(map(str, row)) + " |")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Seeded damage to a stored run, and the judgement of what a reader makes of it.

A reader may reject the damaged checkpoint and take the one before, or refuse the run. What it may never do is hand out
a byte that was not saved, or fail with anything but a report of damage.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clip_testkit.memorystore import MemoryStore
from clip_testkit.savedrun import Tensors, save
from clipctl.contract.commits import Rejection, newest, read_commit, read_manifest, read_object, read_piece
from clipctl.contract.errors import CorruptError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import ObjectStore

Objects = Mapping[str, bytes]
NOTICED, HARMLESS, WRONG = "noticed", "same bytes read", "WRONG"
STEPS = (10, 20)


@dataclass(frozen=True)
class Damage:
    """What was done.

    Attributes:
        kind: as the table names it.
        objects: the whole run afterwards.
        key: of the object that was damaged.
    """

    kind: str
    objects: Objects
    key: str


@dataclass
class Tally:
    """Outcomes by kind of damage, and the cases in which the reader was wrong."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[tuple[int, Damage, str]] = field(default_factory=list)

    def add(self, number: int, damage: Damage, outcome: str, why: str) -> None:
        """Count a case."""
        self.outcomes.setdefault(damage.kind, Counter())[outcome] += 1
        if outcome == WRONG:
            self.wrong.append((number, damage, why))

    @property
    def cases(self) -> int:
        """How many there were."""
        return sum(counter.total() for counter in self.outcomes.values())


def saved_run() -> dict[str, bytes]:
    """Two checkpoints of different values, in objects of several chunks."""
    store = MemoryStore()
    for step in STEPS:
        values = struct.pack("<24f", *(step + 0.5 * i for i in range(24)))
        half = struct.pack("<8e", *(step - i for i in range(8)))
        parts: dict[str, Tensors] = {
            "weights": {"visual.w": ("F32", (6, 4), values), "text.b": ("F16", (8,), half)},
            "optimizer": {"exp_avg.visual.w": ("F32", (6, 4), values[::-1])},
        }
        save(store, step, parts=parts, state={"train": {"step": step, "samples_consumed": step * 64}})
    store.write("LATEST", f"{CheckpointId(STEPS[-1], 1)}\n".encode())
    return store.objects


def damages(objects: Objects, seed: int) -> Iterator[Damage]:
    """Endless damage to the newest checkpoint: to any of its objects, its manifest or its commit record."""
    chance = random.Random(seed)
    targets = sorted(key for key in objects if f"step-{STEPS[-1]:08d}" in key)
    while True:
        kind = chance.choice(sorted(_KINDS))
        key = chance.choice(targets)
        changed = _KINDS[kind](dict(objects), key, chance)
        if changed != objects:
            yield Damage(kind, changed, key)


def run(count: int, seed: int) -> Tally:
    """Damage a run so many times and read it each time."""
    objects, tally = saved_run(), Tally()
    truth = {step: read(MemoryStore(objects), CheckpointId(step, 1)) for step in STEPS}
    for number, damage in zip(range(count), damages(objects, seed), strict=False):
        tally.add(number, damage, *judge(damage.objects, truth))
    return tally


def read(store: ObjectStore, checkpoint: CheckpointId) -> dict[str, Any]:
    """Everything a checkpoint says, read as the trainer does: whole objects, and single tensors by ranges."""
    commit = read_commit(store, checkpoint)
    manifest = read_manifest(store, commit)
    found: dict[str, Any] = {"step": commit.step, "samples": commit.samples_consumed, "state": manifest.state}
    for stored in manifest.objects:
        found[stored.name] = read_object(store, checkpoint, stored)
        for name, (piece,) in manifest.locate(stored.part).items():
            data = bytes(read_piece(store, checkpoint, piece))
            found[f"{stored.part} {name}"] = (piece.entry.dtype, piece.entry.shape, data)
    return found


def judge(objects: Objects, truth: Mapping[int, dict[str, Any]]) -> tuple[str, str]:
    """What a reader made of it, and why that is wrong if it is."""
    rejected: list[Rejection] = []
    try:
        found = newest(MemoryStore(objects), read, rejected.append)
    except CorruptError:
        return NOTICED, ""
    except Exception as error:
        return WRONG, f"{type(error).__name__}: {error}"
    if found is None:
        return WRONG, "nothing seems to have been saved"
    if truth.get(found["step"]) != found:
        return WRONG, f"step {found['step']} was read with other values than were saved"
    if rejected:
        return NOTICED, ""
    return (HARMLESS, "") if found["step"] == STEPS[-1] else (WRONG, "the newest checkpoint vanished without a word")


def _flip(objects: dict[str, bytes], key: str, chance: random.Random) -> dict[str, bytes]:
    data = bytearray(objects[key])
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return {**objects, key: bytes(data)}


def _cut(objects: dict[str, bytes], key: str, chance: random.Random) -> dict[str, bytes]:
    return {**objects, key: objects[key][: chance.randrange(len(objects[key]))]}


def _swap(objects: dict[str, bytes], key: str, chance: random.Random) -> dict[str, bytes]:
    """Two ranges of one object, or two whole objects of the run."""
    if chance.random() < 0.3:
        other = chance.choice(sorted(objects))
        return {**objects, key: objects[other], other: objects[key]}
    data = bytearray(objects[key])
    length = chance.randint(1, max(1, len(data) // 4))
    first, second = (chance.randrange(len(data) - length + 1) for _ in range(2))
    if abs(first - second) >= length:
        held = data[first : first + length]
        data[first : first + length] = data[second : second + length]
        data[second : second + length] = held
    return {**objects, key: bytes(data)}


def _zero(objects: dict[str, bytes], key: str, chance: random.Random) -> dict[str, bytes]:
    start, end = sorted(chance.randrange(len(objects[key]) + 1) for _ in range(2))
    return {**objects, key: objects[key][:start] + bytes(end - start) + objects[key][end:]}


def _append(objects: dict[str, bytes], key: str, chance: random.Random) -> dict[str, bytes]:
    tail = chance.choice((b"\n", b" ", b"\0", b"}", chance.randbytes(chance.randint(1, 64))))
    return {**objects, key: objects[key] + tail}


def _duplicate(objects: dict[str, bytes], key: str, chance: random.Random) -> dict[str, bytes]:
    data = objects[key]
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return {**objects, key: data[:end] + data[start:end] + data[end:]}


def _delete(objects: dict[str, bytes], key: str, chance: random.Random) -> dict[str, bytes]:
    return {name: data for name, data in objects.items() if name != key}


def _rename(objects: dict[str, bytes], key: str, chance: random.Random) -> dict[str, bytes]:
    """To a name that means something else, over what was there; not over LATEST, which is all that still tells of a
    commit record that is gone.
    """
    moved = objects.pop(key)
    step, incarnation = chance.choice((10, 20, 30)), chance.choice((1, 2))
    names = (
        f"commits/{CheckpointId(step, incarnation)}.json",
        f"checkpoints/step-{step:08d}/inc-{incarnation:06d}/manifest.json",
        chance.choice(sorted(objects.keys() - {"LATEST"})),
        f"{key}.bak",
    )
    return {**objects, chance.choice(names): moved}


_KINDS: dict[str, Callable[[dict[str, bytes], str, random.Random], dict[str, bytes]]] = {
    "flip": _flip,
    "cut": _cut,
    "swap": _swap,
    "zero": _zero,
    "append": _append,
    "duplicate": _duplicate,
    "delete": _delete,
    "rename": _rename,
}

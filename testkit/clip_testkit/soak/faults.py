"""How each kind of fault is done to a scene. A fault that finds no victim at its moment does not happen."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from clip_testkit.agents import process_state
from clip_testkit.httpfaults import Answer, Fault, Request, refuse, reset_after
from clip_testkit.soak.plan import Planned
from clip_testkit.soak.scene import Scene
from clipctl.contract import layout
from clipctl.contract.commits import list_checkpoints, verify
from clipctl.contract.errors import ClipError
from clipctl.contract.failpoint_names import NAMES
from clipctl.contract.store import ObjectStore

_EVERY_METHOD = ("GET", "HEAD", "PUT", "POST", "DELETE")
_AREAS = ("checkpoint.", "elastic.", "memory.", "store.", "train.", "data.")
_INTACT = 2
"""So many other checkpoints must be intact before one is damaged."""


def act(scene: Scene, planned: Planned) -> bool:
    """Do it; False if there was nothing to do it to."""
    return _ACTIONS[planned.kind](scene, random.Random(planned.chance))


def _kill_worker(scene: Scene, chance: random.Random) -> bool:
    victim = scene.choose(scene.workers(), chance)
    if victim is not None:
        scene.kill(victim.pid)
    return victim is not None


def _kill_rank_0(scene: Scene, chance: random.Random) -> bool:
    victim = scene.choose([worker for worker in scene.workers() if worker.reading.rank == 0], chance)
    if victim is not None:
        scene.kill(victim.pid)
    return victim is not None


def _kill_all_workers(scene: Scene, chance: random.Random) -> bool:
    victims = scene.workers()
    for victim in victims:
        scene.kill(victim.pid)
    return bool(victims)


def _end_agent(scene: Scene, chance: random.Random, number: signal.Signals, rules: str = "") -> bool:
    agents = scene.running_agents()
    if agents:
        scene.end_agent(chance.choice(agents), number, chance.uniform(0.5, 5.0), rules)
    return bool(agents)


def _failpoint(scene: Scene, chance: random.Random) -> bool:
    names = chance.sample([name for name in NAMES if name.startswith(_AREAS)], 6)
    rules = [f"{name}=kill@{chance.choice((1, 1, 2, 5, 20))}!once" for name in names if name not in _PACING]
    return _end_agent(scene, chance, signal.SIGKILL, ";".join(rules))


_PACING = ("train.before_update",)  # has a rule already


def _kill_coordinator(scene: Scene, chance: random.Random) -> bool:
    if scene.group.coordinator is None or scene.group.coordinator.poll() is not None:
        return False
    scene.renew_coordinator(chance.uniform(0.2, 4.0))
    return True


def _stop_worker(scene: Scene, chance: random.Random) -> bool:
    victim = scene.choose(scene.workers(), chance)
    if victim is None:
        return False
    scene.kill(victim.pid, signal.SIGSTOP)  # the watchdog must end it
    return True


def _pause_worker(scene: Scene, chance: random.Random) -> bool:
    victim = scene.choose(scene.workers(), chance)
    if victim is None:
        return False
    pid = victim.pid
    scene.kill(pid, signal.SIGSTOP)
    scene.later(chance.uniform(0.2, 2.0), lambda: scene.kill(pid, signal.SIGCONT))
    return True


def _corrupt_checkpoint(scene: Scene, chance: random.Random) -> bool:
    store = scene.workload.store
    checkpoints = list_checkpoints(store)
    if len(checkpoints) <= _INTACT:
        return False
    newest, *others = reversed(checkpoints)
    if sum(_intact(store, other) for other in others[: _INTACT + 2]) < _INTACT or not _intact(store, newest):
        return False
    objects = [info for info in store.list(layout.checkpoint_prefix(newest)) if info.size]
    if not objects:
        return False
    info = chance.choice(objects)
    scene.damaged.add(str(newest))
    try:
        _flip(Path(store.root) / info.key, chance.randrange(info.size))
    except FileNotFoundError:  # an old one, deleted meanwhile
        return False
    return _kill_all_workers(scene, chance)


def _intact(store: ObjectStore, checkpoint: layout.CheckpointId) -> bool:
    try:
        verify(store, checkpoint)
    except ClipError:
        return False
    return True


def _flip(file: Path, offset: int) -> None:
    with file.open("r+b") as stored:
        stored.seek(offset)
        byte = stored.read(1)[0]
        stored.seek(offset)
        stored.write(bytes([byte ^ 0x10]))


def _disk_full(scene: Scene, chance: random.Random) -> bool:
    assert scene.disk is not None
    scene.disk.fill()
    scene.later(chance.uniform(0.3, 1.5), scene.disk.relieve)
    return True


def _s3(scene: Scene, chance: random.Random, fault: Fault, probability: float) -> bool:
    assert scene.server is not None
    scene.server.add(fault, methods=_EVERY_METHOD, probability=probability)
    scene.later(chance.uniform(0.5, 4.0), scene.server.heal)
    return True


def _late(request: Request, answer: Answer, chance: random.Random) -> Answer:
    time.sleep(chance.uniform(0.1, 1.0))
    return answer


_ACTIONS: dict[str, Callable[[Scene, random.Random], bool]] = {
    "kill_worker": _kill_worker,
    "kill_rank_0": _kill_rank_0,
    "kill_all_workers": _kill_all_workers,
    "kill_agent": lambda scene, chance: _end_agent(scene, chance, signal.SIGKILL),
    "term_agent": lambda scene, chance: _end_agent(scene, chance, signal.SIGTERM),
    "kill_coordinator": _kill_coordinator,
    "stop_worker": _stop_worker,
    "pause_worker": _pause_worker,
    "failpoint": _failpoint,
    "corrupt_checkpoint": _corrupt_checkpoint,
    "disk_full": _disk_full,
    "s3_errors": lambda scene, chance: _s3(scene, chance, refuse(503, code="SlowDown"), 0.7),
    "s3_resets": lambda scene, chance: _s3(scene, chance, reset_after(0), 0.5),
    "s3_slow": lambda scene, chance: _s3(scene, chance, _late, 1.0),
}


def release(scene: Scene) -> None:
    """End every fault that lasts, so that the run can finish."""
    for pid in scene.group.left_over():
        if process_state(pid) == "T":
            scene.kill(pid, signal.SIGCONT)
    if scene.server is not None:
        scene.server.heal()
    if scene.disk is not None:
        scene.disk.relieve()

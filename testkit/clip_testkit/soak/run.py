"""One run under a list of faults, from its first process to its verdict."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import s3fs

from clip_testkit.agents import AgentGroup, wait_until
from clip_testkit.s3fault import fault_server
from clip_testkit.s3server import create_bucket, s3_server
from clip_testkit.soak import faults as actions
from clip_testkit.soak.plan import Planned, possible
from clip_testkit.soak.scene import Scene
from clip_testkit.soak.verdict import Ending, Verdict, decide
from clip_testkit.soak.workload import Workload, prepare
from clip_testkit.tmpfs import small_disk

DISK_BYTES = 64 << 20
START_SECONDS = 900.0
FINISH_SECONDS = 900.0
"""After the last fault, and beyond what the steps themselves take."""
PATIENCE = 20.0
"""So long a fault waits for a victim."""


@dataclass(frozen=True)
class Setting:
    """What a soak is like, faults apart.

    Attributes:
        storage: "folder" or "s3".
        nodes: agents.
        min_nodes: so many suffice.
        steps: of the run.
        pace: seconds that a step lasts at least.
        disk: whether a folder is on a file system of its own that can be full (root).
        parallel: `train.parallel`.
    """

    storage: str = "folder"
    nodes: int = 3
    min_nodes: int = 1
    steps: int = 400
    pace: float = 0.05
    disk: bool = False
    parallel: str = "ddp"

    def kinds(self, wanted: Sequence[str] = ()) -> list[str]:
        """Kinds of faults that can happen here."""
        offered = {self.storage, *(["disk"] if self.disk else []), *(["nodes"] if self.nodes > 1 else [])}
        return possible(offered, wanted)


@dataclass(frozen=True)
class Outcome:
    """How it went: the verdict, how often each kind of fault happened, and seconds from the first step to the end."""

    verdict: Verdict
    faults: Counter[str]
    seconds: float
    log: str = field(repr=False, default="")


def execute(setting: Setting, faults: Sequence[Planned], reference: Workload, folder: Path) -> Outcome:
    """Run once.

    Args:
        setting: of the soak.
        faults: what goes wrong, in order.
        reference: the same run, undisturbed.
        folder: an empty one for this run.
    """
    folder.mkdir(parents=True)
    with _staged(setting, folder) as scene:
        scene.group.start_coordinator()
        for index in range(setting.nodes):
            scene.start_agent(index)
        wait_until(lambda: _training(scene), START_SECONDS, f"training\n{scene.group.log()[-4000:]}")
        began = time.monotonic()
        happened = _disturb(scene, faults, began)
        actions.release(scene)
        finish = FINISH_SECONDS + setting.steps * setting.pace * 3
        codes = _ends(scene, finish)
        seconds = time.monotonic() - began
        left_over = _left_over(scene)
        store = scene.workload.store
        verdict = decide(store, scene.workload.spec, reference.store, scene.damaged, Ending(codes, left_over))
        return Outcome(verdict, happened, seconds, scene.group.log())


def _training(scene: Scene) -> bool:
    return scene.ended or any(worker.reading.step >= 1 for worker in scene.workers())


def _disturb(scene: Scene, faults: Sequence[Planned], began: float) -> Counter[str]:
    """Let the faults happen at their times, as long as the run is not over."""
    happened: Counter[str] = Counter()
    for fault in faults:
        while time.monotonic() < began + fault.at and not scene.ended:
            _turn(scene)
        happened[fault.kind] += _tried(scene, fault)
    return +happened


def _tried(scene: Scene, fault: Planned) -> bool:
    """Whether the fault happened: now, or as soon as there is somebody it can happen to."""
    deadline = time.monotonic() + PATIENCE
    while not (scene.ended or scene.complete) and time.monotonic() < deadline:
        if actions.act(scene, fault):
            return True
        _turn(scene)
    return False


def _turn(scene: Scene) -> None:
    scene.do_what_is_due()
    if scene.server is not None:
        scene.server.requests.clear()  # with all bodies, these would fill the memory
    time.sleep(0.05)


def _ends(scene: Scene, seconds: float) -> dict[int, int | None]:
    """Exit codes of the agents, None for those that do not end in time."""
    deadline = time.monotonic() + seconds
    while not scene.ended and time.monotonic() < deadline:
        _turn(scene)
    return {index: _code(scene, agent.poll()) for index, agent in scene.group.agents.items()}


def _code(scene: Scene, status: int | None) -> int | None:
    """An agent that was ended by a fault when the run was complete elsewhere has nothing more to do."""
    told_to_end = status in (75, -9) and scene.complete
    return 0 if told_to_end else status


def _left_over(scene: Scene) -> list[str]:
    """What still runs besides the coordinator, which is ended here."""
    coordinator = scene.group.coordinator
    assert coordinator is not None
    with contextlib.suppress(AssertionError):
        wait_until(lambda: set(scene.group.left_over()) <= {coordinator.pid}, 120, "workers to be gone")
    found = [command for pid, command in scene.group.left_over().items() if pid != coordinator.pid]
    if coordinator.poll() is None:
        coordinator.terminate()
        coordinator.wait()
    return found


@contextlib.contextmanager
def _staged(setting: Setting, folder: Path) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        environment: dict[str, str] = {}
        path, server, disk = None, None, None
        if setting.storage == "s3":
            moto = stack.enter_context(s3_server())
            create_bucket(moto, "soak")
            server = stack.enter_context(fault_server(upstream=moto))
            environment = s3_environment(server.url, folder)
            stack.enter_context(_variables(environment | {"AWS_ENDPOINT_URL_S3": moto}))  # the judge is not disturbed
            s3fs.S3FileSystem.clear_instance_cache()  # instances remember the endpoint they were made for
            path = "s3://soak/runs"
        elif setting.disk:
            disk = stack.enter_context(small_disk(folder / "disk", DISK_BYTES))
            path = str(disk.path / "runs")
        workload = prepare(folder / "run", setting.steps, setting.nodes, path, setting.parallel)
        group = AgentGroup(
            folder,
            nodes=setting.nodes,
            minimum=setting.min_nodes,
            worker="clip_trainer.main",
            config=workload.config,
            environment={**environment, "PET_MAX_RESTARTS": "1000"},
        )
        stack.enter_context(group)
        yield Scene(group, workload, folder, setting.pace, disk, server)


def s3_environment(url: str, nowhere: Path) -> dict[str, str]:
    """Variables that name a server, with keys, and nothing of the developer's own."""
    return {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(nowhere / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(nowhere / "no-credentials"),
    }


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""Training runs in miniature: whole trainer processes on a few tiny pictures, killed on cue.

Each rank is a real process that runs `clip_trainer.main.main`, in a group of its own on a free port, on a model that
is smaller than any built-in one. What happens to a rank happens at an exact step, so nothing depends on timing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from clip_testkit.agents import free_port
from clip_testkit.ranks import PRELOAD
from clip_testkit.shards import sample_members, tar_bytes
from clipctl.contract.spec import RunSpec

SMALL_MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
}
CLASSES = ("zero", "one", "two")
_TIMEOUT_S = 120.0
_PEER_TIMEOUT = timedelta(seconds=100)  # ranks share few slow cores with other tests
_MEETINGS = 4
_NOT_MET = "could not meet its"  # what `process_group.enter` says when gloo loses connections, see `ranks.meet`


@dataclass(frozen=True)
class Cue:
    """A signal that one rank sends itself when it has done `step`."""

    step: int
    rank: int = 0
    signal: int = signal.SIGTERM


def write_labelled_dataset(folder: Path, counts: Sequence[int]) -> None:
    """Shards of numbered pictures with captions and class numbers."""
    folder.mkdir(parents=True)
    number = 0
    for shard, count in enumerate(counts):
        members = [m for i in range(number, number + count) for m in sample_members(i, cls=i % len(CLASSES))]
        (folder / f"shard-{shard:06d}.tar").write_bytes(tar_bytes(members))
        number += count


def write_config(folder: Path, name: str, data: str, /, **changes: dict[str, Any]) -> Path:
    """A configuration file for a run of 8 steps with a batch of 12, with sections updated by `changes`. It trains
    `SMALL_MODEL` under the name of a larger one.
    """
    raw: dict[str, Any] = {
        "name": name,
        "model": {"name": "ViT-tiny-8-32", "config": str(folder / "small-model.json"), "precision": "fp32"},
        "data": {"train": data, "shuffle_block": 4},
        "train": {"global_batch": 12, "micro_batch": 5, "steps": 8, "learning_rate": 1e-3, "warmup_steps": 2},
        "checkpoint": {"path": str(folder / "runs"), "every_steps": 4, "keep": 2},
        "scale": {"nodes": {"max": 3}},
    }
    for section, change in changes.items():
        raw[section] = {**raw.get(section, {}), **change}
    (folder / "small-model.json").write_text(json.dumps(SMALL_MODEL))
    spec = RunSpec.model_validate(raw)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"spec": spec.resolved(), "spec_digest": spec.digest()}))
    return path


def train_ranks(
    world: int, config: Path, folder: Path, cues: Sequence[Cue] = (), poisoned: Sequence[int] = ()
) -> list[tuple[int, str]]:
    """Run the trainer on `world` ranks until all have ended.

    Args:
        world: number of ranks.
        config: the configuration file.
        folder: for their output.
        cues: what happens to them.
        poisoned: see `poison`.

    Returns:
        Exit code (negative: the signal that ended it) and output of each rank.
    """
    for _ in range(_MEETINGS):
        outcomes = _train_once(world, config, folder, cues, poisoned)
        if not any(_NOT_MET in output for _, output in outcomes):
            break  # else nobody has begun, and all have ended to be started again, as a launcher would
    return outcomes


def _train_once(
    world: int, config: Path, folder: Path, cues: Sequence[Cue], poisoned: Sequence[int]
) -> list[tuple[int, str]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, __name__])
    port = free_port()  # not one that another process may get before rank 0 listens
    processes = []
    outputs = [folder / f"rank-{rank}.log" for rank in range(world)]
    for rank, output in enumerate(outputs):
        own = [cue for cue in cues if cue.rank == rank]
        process = context.Process(target=_rank_main, args=(rank, world, port, str(config), str(output), own, poisoned))
        process.start()
        processes.append(process)
    for process in processes:
        process.join(_TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
    return [(int(p.exitcode or 0), o.read_text()) for p, o in zip(processes, outputs, strict=True)]


def _rank_main(
    rank: int, world: int, port: int, config: str, output: str, cues: Sequence[Cue], poisoned: Sequence[int]
) -> None:
    """Body of one rank; never returns."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    import torch

    from clip_trainer import main
    from clip_trainer.elastic import process_group
    from clip_trainer.train import generations as module

    torch.set_num_threads(1)
    generations: Any = module
    generations.COLLECTIVE_TIMEOUT = _PEER_TIMEOUT
    patient: Any = partial(process_group.enter, join_timeout=_PEER_TIMEOUT)
    process_group.enter = patient
    act_on(cues)
    poison(poisoned)
    code = main.main([config])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def act_on(cues: Sequence[Cue]) -> None:
    """Let this process signal itself when it has done the steps of `cues`."""
    from clip_trainer.train import loop as module

    loop: Any = module
    record = loop.record

    def record_and_act(run: Any, *arguments: Any) -> None:
        record(run, *arguments)
        for cue in cues:
            if run.state.step == cue.step:
                os.kill(os.getpid(), cue.signal)

    loop.record = record_and_act


def poison(positions: Sequence[int]) -> None:
    """Let the losses of the batches that begin at these samples be NaN, on the last rank of the group alone."""
    from clip_trainer.train.objective import ModelObjective

    backward = ModelObjective.backward

    def poisoned(objective: Any, batch: Any, **options: Any) -> Any:
        terms = backward(objective, batch, **options)
        last = objective._group.rank == objective._group.world - 1
        spoiled = last and batch.position_start in positions
        return {name: term * float("nan") for name, term in terms.items()} if spoiled else terms

    ModelObjective.backward = poisoned  # type: ignore[assignment, method-assign]

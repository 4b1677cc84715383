"""A training state of a few tensors, without a model: what tests of checkpoints save, a hundred times a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from clip_trainer.checkpoint.incarnation import allocate
from clip_trainer.checkpoint.reading import open_checkpoint
from clip_trainer.checkpoint.retention import Retention
from clip_trainer.checkpoint.save import Checkpointer, Identity
from clip_trainer.checkpoint.tensors import OPTIMIZER, WEIGHTS, Tensors
from clip_trainer.train.group import Group
from clipctl.contract.commits import Rejection, newest
from clipctl.contract.layout import CheckpointId
from clipctl.contract.retention import KeepPolicy
from clipctl.contract.store import ObjectStore

SHAPES: Mapping[str, tuple[int, ...]] = {"big": (40, 5), "scale": (), "rows": (7, 3), "none": (0, 4), "bias": (9,)}


def state_at(step: int) -> dict[str, Tensors]:
    """The state after a step: every element tells the step, and where it stands."""
    parts: dict[str, Tensors] = {WEIGHTS: {}, OPTIMIZER: {}}
    for number, (name, shape) in enumerate(SHAPES.items()):
        values = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
        parts[WEIGHTS][name] = values + 1000 * step + 100 * number
        parts[OPTIMIZER][f"exp_avg.{name}"] = (values - step).to(torch.float64)
    parts[WEIGHTS]["count"] = torch.tensor([step])
    parts[WEIGHTS]["flag"] = torch.tensor([step % 2 == 0, True, False])
    return parts


def same(parts: Mapping[str, Tensors], wanted: Mapping[str, Tensors]) -> bool:
    """Whether both have the same tensors, bit for bit, of the same types."""
    if {part: sorted(of) for part, of in parts.items()} != {part: sorted(of) for part, of in wanted.items()}:
        return False
    pairs = [(parts[part][name], wanted[part][name]) for part in wanted for name in wanted[part]]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def incarnate(store: ObjectStore) -> int:
    """Take the next incarnation number."""
    return allocate(store, attempt=1, world=1, now=1.0)


def saver(
    store: ObjectStore,
    incarnation: int = 1,
    *,
    rank: int = 0,
    world: int = 1,
    keep: int = 2,
    report: Callable[[str], None] = lambda text: None,
    before_commit: Callable[[], None] = lambda: None,
) -> Checkpointer:
    """A checkpointer on the CPU with fixed clocks."""
    identity = Identity("demo", 1, incarnation, "spec", "training", f"test:{incarnation}")
    return Checkpointer(
        store,
        Group(rank, world, rank, torch.device("cpu")),
        identity,
        Retention(KeepPolicy(last=keep), report),
        lambda: 1.0,
        before_commit=before_commit,
        monotonic=lambda: 0.0,
    )


def begin(checkpointer: Checkpointer, step: int) -> None:
    """Begin to save the state after a step."""
    checkpointer.start(step, step * 12, state_at(step), {"step": step}, {"loss": 1.0 / step})


def newest_state(store: ObjectStore, rejected: list[Rejection]) -> tuple[CheckpointId, dict[str, Tensors]] | None:
    """The newest intact checkpoint, and what it holds."""

    def load(_: ObjectStore, checkpoint: CheckpointId) -> tuple[CheckpointId, dict[str, Tensors]]:
        return checkpoint, open_checkpoint(store, checkpoint).read()

    return newest(store, load, rejected.append)

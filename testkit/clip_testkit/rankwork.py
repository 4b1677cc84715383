"""What tests let the ranks of a group do; functions here can be sent to the processes of `run_ranks`."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from clip_testkit.training import SMALL_MODEL
from clip_trainer.checkpoint.restore import restore
from clip_trainer.checkpoint.retention import Retention
from clip_trainer.checkpoint.save import Checkpointer, Identity
from clip_trainer.checkpoint.tensors import OPTIMIZER, WEIGHTS, Tensors
from clip_trainer.elastic.process_group import set_timeout
from clip_trainer.model import ClipModel, create_model
from clip_trainer.model.config import ClipConfig
from clip_trainer.train.group import Group
from clip_trainer.train.peer_loss import is_peer_loss
from clipctl.contract.errors import CannotCreateError, ClipError, SpecError
from clipctl.contract.retention import KeepPolicy
from clipctl.contract.store import ObjectStore, open_store


def group_of(rank: int, world: int) -> Group:
    """A group on the CPU."""
    return Group(rank, world, rank, torch.device("cpu"))


def small_model(seed: int = 0, precision: str = "fp32") -> ClipModel:
    """A model smaller than any built-in one."""
    return create_model(ClipConfig.from_dict(SMALL_MODEL, "test"), precision, seed)


def collectives(rank: int, world: int) -> dict[str, Any]:
    """Every collective once, with values that tell the ranks apart."""
    group = group_of(rank, world)
    texts = group.gather_json({"rank": rank, "text": "ä" * (rank * 1000)})
    torch.manual_seed(rank)
    tensor = torch.rand(5)
    group.broadcast_tensors([tensor])
    group.barrier()
    return {
        "gathered": [(answer["rank"], len(answer["text"])) for answer in texts],
        "broadcast": group.broadcast_json({"from": rank, "long": "x" * 100_000})["from"],
        "first": group.on_first(lambda: {"did": rank}),
        "sum": group.sum(torch.tensor([rank, 1])).tolist(),
        "tensor": tensor.tolist(),
    }


def failing_on_first(rank: int, world: int) -> list[Any]:
    """What each rank sees when rank 0's action fails."""
    group = group_of(rank, world)

    def fail() -> None:
        raise SpecError("wrong.", hint="mend it.")

    try:
        group.on_first(fail)
    except ClipError as error:
        return [type(error).__name__, error.problem, error.hint, int(error.code)]
    return []


def patient_on_first(rank: int, world: int) -> list[Any]:
    """Rank 0's action lasts until it has been announced three times that it goes on."""
    from clip_trainer.train import group as module

    module._KEEP_ALIVE_SECONDS = 0.01
    announced, enough, broadcast = [0], threading.Event(), Group.broadcast_json

    def counted(group: Group, value: Any) -> Any:
        answer = broadcast(group, value)
        announced[0] += answer == module._STILL_AT_IT
        if announced[0] >= 3:
            enough.set()
        return answer

    Group.broadcast_json = counted  # type: ignore[assignment, method-assign]
    return [group_of(rank, world).on_first(lambda: enough.wait(120.0)), announced[0] >= 3]


def waiting_for_a_late_rank(rank: int, world: int, folder: str, seconds: list[float], late: float) -> str:
    """What becomes of a collective for which rank 1 comes late, after timeouts were set one after the other.

    It comes after `late` seconds, or when rank 0 has given up.
    """
    gave_up = Path(folder) / "gave-up"
    for timeout in seconds:
        set_timeout(torch.device("cpu"), timedelta(seconds=timeout))
    until = time.monotonic() + late
    while rank == 1 and time.monotonic() < until and not gave_up.exists():
        time.sleep(0.01)
    try:
        return f"sum {int(group_of(rank, world).sum(torch.ones(1)).item())}"
    except RuntimeError as error:
        gave_up.touch()
        return "lost a peer" if is_peer_loss(error) else str(error)


def summed_gradients(rank: int, world: int, bucket: int) -> list[list[float]]:
    """Gradients [k, k+1, ...] * (rank + 1) of parameters of several shapes, summed over the ranks."""
    from clip_trainer.train import group as module

    module._BUCKET_ELEMENTS = bucket
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3,), (2, 2), (), (7,), (1, 5))]
    for index, parameter in enumerate(parameters):
        count = torch.arange(parameter.numel(), dtype=torch.float32) + index
        parameter.grad = (count * (rank + 1)).reshape(parameter.shape)
    without = torch.nn.Parameter(torch.zeros(2))
    group_of(rank, world).sum_gradients([*parameters, without])
    assert without.grad is None
    return [parameter.grad.flatten().tolist() for parameter in parameters if parameter.grad is not None]


def averaged_statistics(rank: int, world: int) -> list[list[float]]:
    """Running means and variances of one layer after averaging; rank r has r + 1 times [1, 2] and [3, 4]."""
    from clip_trainer.train.running_statistics import RunningStatistics

    layer = torch.nn.BatchNorm1d(2)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(torch.tensor([1.0, 2.0]) * (rank + 1))
    layer.running_var.copy_(torch.tensor([3.0, 4.0]) * (rank + 1))
    RunningStatistics(layer).average(group_of(rank, world))
    return [layer.running_mean.tolist(), layer.running_var.tolist()]


def trained_parts(seed: int) -> dict[str, Tensors]:
    """The state tensors of a small model, filled with noise."""
    weights = dict(small_model().state_dict())
    moments = {f"{key}.{name}": torch.zeros_like(t) for key in ("exp_avg", "exp_avg_sq") for name, t in weights.items()}
    parts = {WEIGHTS: weights, OPTIMIZER: moments}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensors in parts.values():
            for tensor in tensors.values():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return parts


def checkpointer_of(store: ObjectStore, group: Group, incarnation: int = 1, keep: int = 2) -> Checkpointer:
    """A checkpointer of an incarnation, with fixed identity."""
    identity = Identity("demo", 1, incarnation, "spec", "training", "test:1")
    return Checkpointer(store, group, identity, Retention(KeepPolicy(last=keep), lambda text: None), lambda: 1.0, None)


def save_parts(rank: int, world: int, root: str, seed: int) -> str:
    """Save noise as the checkpoint of step 5."""
    checkpointer = checkpointer_of(open_store(root), group_of(rank, world))
    return str(checkpointer.save(5, 60, trained_parts(seed), {"train": {"step": 5}}, {"loss": 1.0}))


def restore_parts(rank: int, world: int, root: str, seed: int) -> bool:
    """Restore, and say whether every tensor is bit for bit what `seed` made."""
    parts, wanted = trained_parts(seed=-1 % 2**31), trained_parts(seed)
    found = restore(open_store(root), group_of(rank, world), parts, "training", lambda rejection: None)
    assert found is not None
    assert found.samples_consumed == 60
    return all(torch.equal(parts[part][name], wanted[part][name]) for part in wanted for name in wanted[part])


def failing_save(rank: int, world: int, root: str, broken_rank: int) -> str:
    """One rank cannot store its share; returns the error every rank must see."""
    store = open_store(root)
    if rank == broken_rank:

        def refuse(key: str, data: bytes) -> None:
            raise CannotCreateError("cannot write: the disk is full.")

        store.write = refuse  # type: ignore[method-assign]
        store.write_parts = lambda key, parts, size: refuse(key, b"")  # type: ignore[method-assign]
    try:
        checkpointer_of(store, group_of(rank, world)).save(6, 72, trained_parts(1), {}, {})
    except ClipError as error:
        return f"{int(error.code)} {error.problem}"
    return "saved"


def exchanged_state(rank: int, world: int, source: int) -> list[bool]:
    """Whether all that rank `source` has arrives: as a new state, in messages of a few bytes, and in place."""
    from clip_testkit.tinystate import same, state_at
    from clip_trainer.checkpoint import exchange

    group, wanted = group_of(rank, world), state_at(5)
    mine = state_at(5) if rank == source else None
    fresh = exchange.broadcast_state(group, source, mine)
    exchange.MESSAGE_BYTES = 64
    pieces = exchange.broadcast_state(group, source, mine)
    there = state_at(5 if rank == source else 6)
    turned = {"table": (torch.arange(12.0).reshape(3, 4) * (rank == source)).T}
    exchange.broadcast_bytes(group, source, [*there["weights"].values(), *turned.values()])
    in_place = same({"weights": there["weights"]}, {"weights": wanted["weights"]})
    return [
        same(fresh, wanted),
        same(pieces, wanted),
        in_place and torch.equal(turned["table"], torch.arange(12.0).reshape(3, 4).T),
    ]

"""A few steps of training in float64, with any way of sharing the model; functions here can be sent to `run_ranks`."""

from __future__ import annotations

import gc
import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from clip_testkit.faultystore import FaultyStore
from clip_testkit.objectivework import CPU, SIZE, Setup, objective_of, tiny_batch, tiny_model
from clip_testkit.ranks import meet
from clip_testkit.tinystate import incarnate, saver
from clip_trainer.checkpoint import optimizer_state
from clip_trainer.model import ClipModel
from clip_trainer.optim import GroupRules, OptimizerSettings, build_optimizer, clamp_logit_scale
from clip_trainer.parallel.pieces import local, whole
from clip_trainer.parallel.strategy import Parallel, parallel_of
from clip_trainer.train.ema import WeightAverage
from clip_trainer.train.group import Group
from clip_trainer.train.guard import Guard
from clip_trainer.train.openclip_state import adopt
from clip_trainer.train.trainable import Trainable
from clip_trainer.weights.training_checkpoint import MOMENTS, parameter_order
from clipctl.contract import layout
from clipctl.contract.commits import Rejection
from clipctl.contract.errors import ClipError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.sections import EmaSection, GuardSection
from clipctl.contract.store_local import LocalStore

Arrays = dict[str, npt.NDArray[Any]]


class Case(NamedTuple):
    """What to train, and how."""

    setup: Setup
    optimizer: str = "adamw"
    locked: bool = False
    """Whether the image tower is frozen but for its last block."""
    max_norm: float | None = None
    steps: int = 5


class Trained(NamedTuple):
    """What came of it, seen from one rank."""

    losses: list[dict[str, float]]
    norms: list[float]
    weights: Arrays
    average: Arrays
    moments: Arrays
    """The tensors of the optimiser's state."""
    embedded: npt.NDArray[Any]
    """What the trained model makes of an image, run by this rank alone."""


def train_sharded(rank: int, cases: list[Case], counts: tuple[int, ...]) -> list[Trained]:
    """Every case, sharded over the ranks of the default group."""
    group = Group(rank, len(counts), rank, CPU)
    return [train(case, group, parallel_of("fsdp", group), tiny_batch(counts, rank)) for case in cases]


def train(case: Case, group: Group, parallel: Parallel, batch: Any) -> Trained:
    """The steps of a case, all on one batch."""
    model = model_of(case)
    parallel.adopt(model)
    optimizer = optimizer_of(case, model)
    objective = objective_of(case.setup, model, group, equal_pieces=parallel.equal_pieces)
    average = WeightAverage(model, EmaSection(decay=0.9))
    losses, norms = [], []
    for step in range(case.steps):
        optimizer.zero_grad(set_to_none=True)
        terms = objective.backward(batch)
        losses.append({name: group.sum(term.clone()).item() for name, term in terms.items()})
        parallel.sum_gradients(model.parameters())
        norms.append(float(parallel.clip_gradient_norm(model.parameters(), case.max_norm)))
        optimizer.step()
        clamp_logit_scale(model)
        average.update(step + 1)
        if step == 0:
            embedded_alone(parallel, model, group.rank)  # must not disturb what follows
    moments = optimizer_state.collect(optimizer, case.optimizer).tensors
    return Trained(
        losses,
        norms,
        arrays(whole(dict(model.state_dict()))),
        arrays(whole(average.tensors())),
        arrays(whole(moments)),
        embedded_alone(parallel, model, group.rank),
    )


def model_of(case: Case) -> ClipModel:
    """The model of a case, as it is before training."""
    model = tiny_model(case.setup.kind, case.setup)
    if case.locked:
        model.lock_image_tower(unlocked_groups=2)
    return model


def optimizer_of(case: Case, model: ClipModel) -> torch.optim.Optimizer:
    """The optimiser of a case."""
    momentum = 0.9 if case.optimizer == "sgd" else None
    settings = OptimizerSettings(
        name=case.optimizer,
        lr=1e-2,
        model_name="vit",
        beta1=None,
        beta2=None,
        eps=None,
        momentum=momentum,
        options={},
    )
    return build_optimizer(model, GroupRules(0.2), settings)


def embedded_alone(parallel: Parallel, model: ClipModel, rank: int) -> npt.NDArray[Any]:
    """Run the image tower as often as this rank has a mind to: rank r does it r + 1 times."""
    image = torch.linspace(-1, 1, 3 * SIZE * SIZE, dtype=torch.float64).reshape(1, 3, SIZE, SIZE)
    with parallel.whole(model), torch.no_grad():
        for _ in range(rank + 1):
            features = model.encode_image(image)
    return np.array(features.numpy())


def arrays(tensors: dict[str, Tensor]) -> Arrays:
    """As numpy arrays."""
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def saved_and_resumed(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Save a trained state; let another, untrained one resume from it; train both one more step."""
    group = Group(rank, world, rank, CPU)
    parallel = parallel_of("fsdp", group)
    case = Case(Setup("clip"))
    batch = tiny_batch((2,) * world, rank)
    store = FaultyStore(LocalStore(folder))
    model, optimizer = one_step(case, parallel, group, batch)
    group.on_first(lambda: incarnate(store))
    parts, state = _trainable(model, optimizer).collect()
    saver(store, rank=rank, world=world).save(1, 12, parts, state, {})
    store.done.clear()

    other = model_of(case)
    parallel.adopt(other)
    with torch.no_grad():
        for parameter in other.parameters():
            local(parameter).fill_(7.0)
    resumed = optimizer_of(case, other)
    rejected: list[Rejection] = []
    found = _trainable(other, resumed).restore(store, group, "training", rejected.append)
    reads = sorted({line.split(" ")[1] for line in store.done if line.startswith("read_range")})
    for one, its in ((model, optimizer), (other, resumed)):
        step_once(case, parallel, group, batch, one, its)
    return {
        "found": None if found is None else (str(found.checkpoint), found.samples_consumed),
        "reads": reads,
        "went_on": arrays(whole(dict(model.state_dict()))),
        "resumed": arrays(whole(dict(other.state_dict()))),
    }


def resumed_from_damaged(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Save twice, damage what rank 1 has stored last, and resume."""
    group = Group(rank, world, rank, CPU)
    parallel = parallel_of("fsdp", group)
    case = Case(Setup("clip"))
    batch = tiny_batch((2,) * world, rank)
    store = LocalStore(folder)
    model, optimizer = one_step(case, parallel, group, batch)
    group.on_first(lambda: incarnate(store))
    checkpointer = saver(store, rank=rank, world=world)
    wanted = arrays(whole(dict(model.state_dict())))
    for step in (1, 2):
        parts, state = _trainable(model, optimizer).collect()
        checkpointer.save(step, 12 * step, parts, state, {})
        step_once(case, parallel, group, batch, model, optimizer)
    group.on_first(lambda: _damage(store, f"{layout.checkpoint_prefix(CheckpointId(2, 1))}weights-00001"))
    rejected: list[Rejection] = []
    found = _trainable(model, optimizer).restore(store, group, "training", rejected.append)
    assert found is not None
    last = CheckpointId(1, 1)
    group.on_first(lambda: _damage(store, f"{layout.checkpoint_prefix(last)}optimizer-00000"))
    try:
        _trainable(model, optimizer).restore(store, group, "training", lambda _: None)
    except ClipError as error:
        none_left = error.problem
    return {
        "found": str(found.checkpoint),
        "rejected": [(str(one.checkpoint), one.problem) for one in rejected],
        "none_left": none_left,
        "went_back": all(
            np.array_equal(wanted[name], array) for name, array in arrays(whole(dict(found.tensors["weights"]))).items()
        ),
    }


def continued_from_openclip(rank: int, world: int, path: str) -> tuple[tuple[int, int], Arrays, Arrays]:
    """Continue from a training checkpoint of OpenCLIP, sharded or not; epoch and step, weights and moments."""
    group = Group(rank, world, rank, CPU)
    parallel = parallel_of("fsdp", group)
    case = Case(Setup("clip"))
    model = model_of(case)
    parallel.adopt(model)
    optimizer = optimizer_of(case, model)
    position = adopt(path, _trainable(model, optimizer), group, check_quick_gelu=False)
    moments = optimizer_state.collect(optimizer, "adamw").tensors
    weights = arrays(whole(dict(model.state_dict())))
    return (position.epoch, position.step), weights, arrays(whole(moments))


def write_openclip_checkpoint(path: str) -> None:
    """A training checkpoint in OpenCLIP's form with invented weights and moments, after 3 steps."""
    case = Case(Setup("clip"))
    model = model_of(case)
    parameters = dict(model.named_parameters())
    undecayed, decayed = parameter_order(model)
    with torch.no_grad():
        for number, parameter in enumerate(parameters.values()):
            parameter.add_(0.01 * number)
    state = {
        number: {"step": torch.tensor(3.0), **{m: torch.full_like(parameters[name], number + 1.0) for m in MOMENTS}}
        for number, name in enumerate([*undecayed, *decayed])
    }
    numbers = list(range(len(state)))
    groups = [{"params": numbers[: len(undecayed)]}, {"params": numbers[len(undecayed) :]}]
    saved = {"state": state, "param_groups": groups}
    torch.save({"epoch": 2, "name": "x", "state_dict": model.state_dict(), "optimizer": saved}, path)


def _trainable(model: ClipModel, optimizer: torch.optim.Optimizer) -> Trainable:
    return Trainable(model, optimizer, "adamw", Guard(GuardSection()))


def _damage(store: LocalStore, prefix: str) -> None:
    (key,) = (info.key for info in store.list(prefix))
    data = bytearray(store.read(key))
    data[-1] ^= 1
    store.write(key, bytes(data))


def one_step(case: Case, parallel: Parallel, group: Group, batch: Any) -> tuple[ClipModel, torch.optim.Optimizer]:
    """A model after one step, and its optimiser."""
    model = model_of(case)
    parallel.adopt(model)
    optimizer = optimizer_of(case, model)
    step_once(case, parallel, group, batch, model, optimizer)
    return model, optimizer


def step_once(
    case: Case, parallel: Parallel, group: Group, batch: Any, model: ClipModel, optimizer: torch.optim.Optimizer
) -> None:
    """One step."""
    optimizer.zero_grad(set_to_none=True)
    objective_of(case.setup, model, group, equal_pieces=parallel.equal_pieces).backward(batch)
    parallel.sum_gradients(model.parameters())
    optimizer.step()


def descriptors_after_groups(rank: int, folder: str, groups: int) -> list[int]:
    """Open file descriptors after each of so many groups of two that have trained a step and are gone."""
    found = []
    dist.destroy_process_group()
    for number in range(groups):
        dist.distributed_c10d._world.group_count = 0  # as `process_group.enter`
        meet(f"{folder}/group-{number}", rank, 2)
        group = Group(rank, 2, rank, CPU)
        parallel = parallel_of("fsdp", group)
        one_step(Case(Setup("clip")), parallel, group, tiny_batch((2, 2), rank))
        dist.destroy_process_group()
        parallel.release()
        gc.collect()
        found.append(len(os.listdir("/proc/self/fd")))
    meet(f"{folder}/group-last", rank, 2)
    return found


def refusals(rank: int, world: int) -> list[str]:
    """What is said about models that cannot be sharded."""
    from clip_testkit.tinymodels import resnet
    from clip_trainer.model import create_model
    from clip_trainer.model.config import ClipConfig

    group = Group(rank, world, rank, CPU)
    said = []
    for precision, config in (("fp32", resnet()), ("fp16", None)):
        chosen = ClipConfig.from_dict(config, "tiny") if config else "ViT-tiny-8-32"
        try:
            parallel_of("fsdp", group).adopt(create_model(chosen, precision, 0))
            said.append("")
        except ClipError as error:
            said.append(f"{int(error.code)} {error}")
    return said

"""The state of every optimiser goes through a checkpoint, and nobody can tell."""

import importlib.util
import json
import warnings

import pytest
import torch
from torch import nn

from clip_trainer.checkpoint.optimizer_state import OptimizerState, collect, load
from clip_trainer.model.interchange import from_bytes, to_bytes
from clip_trainer.optim import GroupRules, OptimizerSettings, build_optimizer, optimizer_names
from clipctl.contract.errors import SpecError

RULES = {"rprop": GroupRules(0.0)}
FRAGILE = {"timm/fused", "timm/bnb"}  # need CUDA libraries


def timm_names():
    if importlib.util.find_spec("timm") is None:
        return []
    from timm.optim import list_optimizers

    names = [f"timm/{name}" for name in list_optimizers() if not name.startswith(("adahessian", "kron"))]
    return [name for name in names if not name.startswith(tuple(FRAGILE))] + ["timm/lookahead_adam"]


def build(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 3, bias=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of timm's say that they are deprecated
        return model, build_optimizer(model, RULES.get(name, GroupRules(0.1)), OptimizerSettings(name, lr=0.01))


def advance(model, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        (model(torch.randn(5, 4, generator=generator)) * torch.tensor([1.0, -2.0, 5.0])).tanh().sum().backward()
        optimizer.step()


def through_storage(state):
    return OptimizerState(from_bytes(to_bytes(state.tensors)), json.loads(json.dumps(state.numbers)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*optimizer_names(), *timm_names()])
def test_training_goes_on_bit_for_bit(name):
    model, optimizer = build(name)
    advance(model, optimizer, range(7))
    state, weights = through_storage(collect(optimizer, name)), {k: v.clone() for k, v in model.state_dict().items()}
    advance(model, optimizer, range(7, 12))

    other, resumed = build(name)
    other.load_state_dict(weights)
    load(resumed, name, state)
    advance(other, resumed, range(7, 12))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key
    assert model[0].weight.isfinite().all()
    assert not torch.equal(model[0].weight, weights["0.weight"])


def test_what_is_stored_of_adamw():
    model, optimizer = build("adamw")
    advance(model, optimizer, range(3))
    state = collect(optimizer, "adamw")
    names = {name for name, _ in model.named_parameters()}
    assert set(state.tensors) == {f"{moment}.{name}" for moment in ("exp_avg", "exp_avg_sq") for name in names}
    assert state.tensors["exp_avg.0.weight"] is optimizer.state[model[0].weight]["exp_avg"]
    assert state.numbers["single"] == [{"key": "step", "kind": "float32", "all": 3.0}]
    assert state.numbers["name"] == "adamw"


def test_before_the_first_step_there_is_nothing_and_that_loads_too():
    _, optimizer = build("adamw")
    state = collect(optimizer, "adamw")
    assert (state.tensors, state.numbers["single"]) == ({}, [])
    advance(*(built := build("adamw")), range(2))
    load(built[1], "adamw", state)
    assert not built[1].state


def test_numbers_that_differ_are_kept_apart():
    model, optimizer = build("adamw")
    advance(model, optimizer, range(2))
    optimizer.state[model[0].weight]["step"].fill_(9.0)
    state = through_storage(collect(optimizer, "adamw"))
    other, resumed = build("adamw")
    load(resumed, "adamw", state)
    steps = {name: float(resumed.state[p]["step"]) for name, p in other.named_parameters()}
    assert steps == {"0.weight": 9.0, "0.bias": 2.0, "1.weight": 2.0, "1.bias": 2.0, "2.weight": 2.0}


def test_another_order_of_groups_is_no_obstacle():
    model, optimizer = build("adamw")
    advance(model, optimizer, range(2))
    other, _ = build("adamw")
    regrouped = build_optimizer(other, GroupRules(0.3, "modern", no_decay=("2.*",)), OptimizerSettings("adamw"))
    load(regrouped, "adamw", through_storage(collect(optimizer, "adamw")))
    for name, parameter in model.named_parameters():
        there = regrouped.state[dict(other.named_parameters())[name]]
        assert torch.equal(there["exp_avg"], optimizer.state[parameter]["exp_avg"])


@pytest.mark.parametrize(("fused", "device"), [(True, "cpu"), (False, "cpu")])
def test_counts_of_steps_are_where_the_kernel_wants_them(fused, device):
    model, optimizer = build("adamw")
    advance(model, optimizer, range(2))
    for group in optimizer.param_groups:
        group["fused"] = fused
    load(optimizer, "adamw", through_storage(collect(optimizer, "adamw")))
    step = optimizer.state[model[0].weight]["step"]
    assert (step.device.type, step.dtype, float(step)) == (device, torch.float32, 2.0)


class TestRefusals:
    def test_another_optimiser(self):
        _, optimizer = build("adamw")
        _, sgd = build("sgd")
        with pytest.raises(SpecError, match=r"state of train\.optimizer adamw, not sgd") as caught:
            load(sgd, "sgd", collect(optimizer, "adamw"))
        assert "model.pretrained" in caught.value.hint

    def test_other_trainable_parameters(self):
        _, optimizer = build("adamw")
        model, _ = build("adamw")
        model[0].requires_grad_(False)
        fewer = build_optimizer(model, GroupRules(0.1), OptimizerSettings("adamw"))
        with pytest.raises(SpecError, match="other trainable parameters"):
            load(fewer, "adamw", collect(optimizer, "adamw"))

    def test_a_state_that_cannot_be_stored(self):
        model, optimizer = build("adamw")
        optimizer.state[model[0].weight]["factors"] = [torch.zeros(2)]
        with pytest.raises(SpecError, match="'factors' in a form that cannot be stored"):
            collect(optimizer, "adamw")

"""Optimisers of timm: its classes and defaults, our groups and errors."""

import sys

import pytest
import timm.optim as timm
import torch
from torch import nn

from clip_trainer.optim import GroupRules, OptimizerSettings, build_optimizer
from clipctl.contract.errors import SpecError


def build(name, weight_decay=0.1, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    return model, build_optimizer(model, GroupRules(weight_decay, "modern"), OptimizerSettings(name, **settings))


def steps(model, optimizer, count=3):
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        model(torch.arange(8.0).reshape(2, 4)).square().sum().backward()
        optimizer.step()
    return list(model.parameters())


@pytest.mark.parametrize("name", ["lion", "lamb", "nadamw", "sgd", "adafactor"])
def test_they_step_like_timms_own_over_the_model(name):
    ours = steps(*build(f"timm/{name}", lr=0.01))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    theirs = steps(model, timm.create_optimizer_v2(model, name, lr=0.01, weight_decay=0.1))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_defaults_are_timms_unless_set():
    assert build("timm/lion")[1].param_groups[0]["betas"] == (0.9, 0.99)
    assert build("timm/lion", beta2=0.5)[1].param_groups[0]["betas"] == (0.9, 0.5)
    assert build("timm/sgd")[1].param_groups[0]["momentum"] == 0.9
    assert build("timm/sgd", momentum=0.5)[1].param_groups[0]["momentum"] == 0.5
    assert build("timm/lamb", eps=1e-3, options={"max_grad_norm": 2.0})[1].param_groups[0]["max_grad_norm"] == 2.0


def test_groups_keep_decay_and_names():
    _, optimizer = build("timm/lion")
    assert [(g["names"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (["0.bias", "1.weight", "1.bias"], 0.0),
        (["0.weight"], 0.1),
    ]


def test_lookahead_keeps_its_slow_weights_in_the_state():
    model, optimizer = build("timm/lookahead_sgd", lr=0.01)
    steps(model, optimizer, 6)
    assert "lookahead_slow_buff" in optimizer.state[model[0].weight]


@pytest.mark.parametrize(
    ("name", "settings", "problem", "hint"),
    [
        ("timm/lyon", {}, "There is no optimiser called 'timm/lyon'.", "Did you mean timm/lion?"),
        ("timm/kron", {}, "There is no optimiser called 'timm/kron'.", "Known:"),
        ("timm/lion", {"options": {"cautios": True}}, "takes no option 'cautios'", "Did you mean caution?"),
        ("timm/lion", {"momentum": 0.9}, "timm/lion has no momentum", "train.momentum"),
        ("timm/adan", {"beta1": 0.9}, "timm/adan has 3 betas", "train.beta1"),
        ("timm/fusedadam", {}, "timm/fusedadam", "documentation"),
    ],
)
def test_mistakes_are_named_with_a_remedy(name, settings, problem, hint):
    with pytest.raises(SpecError) as caught:
        build(name, **settings)
    assert problem in caught.value.problem
    assert hint in caught.value.hint


def test_without_timm_the_package_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(SpecError, match="needs the package timm"):
        build("timm/lion")

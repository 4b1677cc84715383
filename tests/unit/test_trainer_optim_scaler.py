"""Loss scaling: the rules of torch's GradScaler, decided from the norm alone."""

import json
import math

import pytest
import torch
from torch import nn

from clip_trainer.optim import LossScaler


def test_an_overflow_halves_the_scale_down_to_one():
    scaler = LossScaler(scale=4.0, good_steps=7)
    seen = []
    for norm in (math.inf, math.nan, math.inf):
        seen.append(scaler.can_shrink)
        scaler.update(norm)
    assert (scaler.scale, scaler.good_steps) == (1.0, 0)
    assert seen == [True, True, False]


def test_a_long_time_without_overflow_doubles_it():
    scaler = LossScaler(scale=8.0, growth_interval=3)
    for _ in range(7):
        scaler.update(1.0)
    assert (scaler.scale, scaler.good_steps) == (32.0, 1)


def test_it_moves_like_torchs():
    ours, theirs = LossScaler(growth_interval=3), torch.amp.GradScaler("cpu", growth_interval=3)
    parameter = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    for value in (1.0, math.inf, 1.0, 1.0, 1.0, math.nan, math.inf, 1.0, 1.0, 1.0, 1.0):
        parameter.grad = theirs.scale(torch.tensor(value))
        theirs.step(optimizer)
        theirs.update()
        ours.update(value)
        assert ours.scale == theirs.get_scale()


def test_unscaling_is_exact():
    scaler = LossScaler()
    layer = nn.Linear(3, 2)
    wanted = torch.randn(2, 3)
    layer.weight.grad = wanted * scaler.scale
    scaler.unscale(layer.parameters())
    assert torch.equal(layer.weight.grad, wanted)
    assert layer.bias.grad is None


def test_state_travels():
    scaler, other = LossScaler(), LossScaler()
    for norm in (1.0, math.inf, 1.0, 1.0):
        scaler.update(norm)
    other.load_json(json.loads(json.dumps(scaler.to_json())))
    assert other == scaler
    with pytest.raises(KeyError):
        other.load_json({})

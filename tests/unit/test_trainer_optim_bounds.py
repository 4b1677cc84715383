"""Gradient clipping and the bound on the temperature."""

import math

import pytest
import torch
from torch import nn

from clip_trainer.model import create_model
from clip_trainer.optim import clamp_logit_scale, clip_gradient_norm


def layer_with_gradient():
    layer = nn.Linear(2, 1)
    layer.weight.grad = torch.tensor([[3.0, 0.0]])
    layer.bias.grad = torch.tensor([4.0])
    return layer


def test_the_norm_is_over_all_parameters_and_returned_unclipped():
    layer = layer_with_gradient()
    assert float(clip_gradient_norm(layer.parameters(), 1.0)) == pytest.approx(5.0)
    assert layer.bias.grad.item() == pytest.approx(0.8, rel=1e-5)
    assert layer.weight.grad[0, 0].item() == pytest.approx(0.6, rel=1e-5)


@pytest.mark.parametrize("bound", [None, 5.1, math.inf])
def test_small_gradients_stay(bound):
    layer = layer_with_gradient()
    assert float(clip_gradient_norm(layer.parameters(), bound)) == pytest.approx(5.0)
    assert layer.bias.grad.item() == pytest.approx(4.0)


def test_parameters_without_gradient_are_skipped():
    layer = layer_with_gradient()
    layer.bias.grad = None
    assert float(clip_gradient_norm(layer.parameters(), 1.0)) == pytest.approx(3.0)
    assert layer.bias.grad is None


def test_a_model_without_any_gradient_has_norm_zero():
    assert float(clip_gradient_norm(nn.Linear(2, 1).parameters(), 1.0)) == 0.0


def test_it_equals_torchs_own():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(8, 8), nn.Linear(8, 8)
    theirs.load_state_dict(ours.state_dict())
    for layer in (ours, theirs):
        layer(torch.ones(3, 8)).square().sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    assert torch.equal(clip_gradient_norm(ours.parameters(), 0.5), norm)
    assert torch.equal(ours.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize(("before", "after"), [(6.0, math.log(100)), (-1.0, 0.0), (2.5, 2.5)])
def test_the_logit_scale_stays_between_1_and_100(before, after):
    model = create_model("ViT-tiny-8-32")
    with torch.no_grad():
        model.logit_scale.fill_(before)
    clamp_logit_scale(model)
    assert model.logit_scale.item() == pytest.approx(after, rel=1e-6)
    assert model.logit_scale.requires_grad

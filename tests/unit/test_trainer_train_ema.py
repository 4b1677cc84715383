"""The moving average of the weights."""

import copy

import pytest
import torch
from torch import nn

from clip_trainer.train.ema import WeightAverage
from clipctl.contract.errors import CorruptError
from clipctl.contract.sections import EmaSection


def model_of(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(dtype)


def move(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype))
            else:
                tensor.add_(1)


def test_the_formula():
    model = model_of()
    average = WeightAverage(model, EmaSection(decay=0.9))
    expected = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
    for step in range(1, 6):
        move(model, step)
        average.update(step)
        for name, tensor in model.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * tensor if tensor.is_floating_point() else tensor.double()
    for name, tensor in average.tensors().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_it_is_that_of_torch():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = model_of()
    ours = WeightAverage(model, EmaSection(decay=0.99))
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    theirs.update_parameters(model)  # its first update is a copy
    for step in range(1, 4):
        move(model, step)
        ours.update(step)
        theirs.update_parameters(model)
    for name, parameter in theirs.module.named_parameters():
        torch.testing.assert_close(ours.tensors()[name], parameter.detach())


def test_only_every_n_steps():
    model = model_of()
    average = WeightAverage(model, EmaSection(decay=0.5, every_steps=3))
    start = average.tensors()["0.weight"].clone()
    changed = []
    for step in range(1, 7):
        move(model, step)
        before = average.tensors()["0.weight"].clone()
        average.update(step)
        changed.append(not torch.equal(before, average.tensors()["0.weight"]))
    assert changed == [False, False, True, False, False, True]
    assert not torch.equal(start, average.tensors()["0.weight"])


def test_small_changes_survive_low_precision():
    model = model_of(torch.bfloat16)
    average = WeightAverage(model, EmaSection(decay=0.9999))
    start = average.tensors()["0.weight"].clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    for step in range(1, 11):
        average.update(step)
    difference = average.tensors()["0.weight"] - start
    torch.testing.assert_close(difference, torch.full_like(difference, 1e-3), rtol=0.05, atol=1e-6)
    assert average.tensors()["0.weight"].dtype == torch.float32
    assert {t.dtype for n, t in average.state_dict().items() if "num" not in n} == {torch.bfloat16}


def test_inside_the_context_the_model_is_the_average_and_afterwards_itself():
    model = model_of()
    average = WeightAverage(model, EmaSection(decay=0.5))
    move(model, 1)
    average.update(1)
    own, pointers = copy.deepcopy(model.state_dict()), [p.data_ptr() for p in model.parameters()]
    with average.in_place():
        assert all(torch.equal(t, average.tensors()[n]) for n, t in model.state_dict().items())
        assert not torch.equal(model.state_dict()["0.weight"], own["0.weight"])
    assert all(torch.equal(t, own[n]) for n, t in model.state_dict().items())
    assert pointers == [p.data_ptr() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="in between"), average.in_place():
        raise RuntimeError("in between")
    assert all(torch.equal(t, own[n]) for n, t in model.state_dict().items())


def test_stored_averages_come_back():
    model, other = model_of(), model_of()
    average = WeightAverage(model, EmaSection(decay=0.5))
    move(model, 1)
    average.update(1)
    resumed = WeightAverage(other, EmaSection(decay=0.5))
    resumed.load({name: tensor.clone() for name, tensor in average.tensors().items()})
    assert all(torch.equal(t, average.tensors()[n]) for n, t in resumed.tensors().items())
    with pytest.raises(CorruptError, match=r"does not fit the model: 0\.weight is missing"):
        resumed.load({name: t for name, t in average.tensors().items() if name != "0.weight"})
    resumed.restart()
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in resumed.tensors().items())

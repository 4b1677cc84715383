"""Batch normalisation with fixed statistics."""

import pytest
import torch
from torch import nn

from clip_trainer.model.frozen_batch_norm import FrozenBatchNorm2d, freeze_batch_norms


def norm(**options):
    layer = nn.BatchNorm2d(3, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean):
            if tensor is not None:
                tensor.copy_(torch.randn(3, generator=generator))
        layer.running_var.copy_(torch.rand(3, generator=generator) + 0.1)
        layer.num_batches_tracked.fill_(7)
    return layer


@pytest.fixture
def image():
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}])
def test_is_what_the_layer_is_in_evaluation_mode(image, options):
    layer = norm(**options)
    frozen = FrozenBatchNorm2d(layer).train()
    torch.testing.assert_close(frozen(image), layer.eval()(image))


def test_nothing_moves_and_nothing_is_learned(image):
    frozen = FrozenBatchNorm2d(norm()).train()
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    frozen(image)
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    assert list(frozen.parameters()) == []


def test_gradients_pass_through(image):
    layer = norm()
    frozen = FrozenBatchNorm2d(layer)
    layer.eval()
    grads = []
    for module in (frozen, layer):
        x = image.clone().requires_grad_()
        module(x).square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_state_dicts_do_not_tell_the_difference():
    layer = norm()
    frozen = FrozenBatchNorm2d(layer)
    assert list(frozen.state_dict()) == list(layer.state_dict())
    assert frozen.num_batches_tracked == 7
    other = norm()
    other.reset_parameters()
    other.load_state_dict(frozen.state_dict())
    torch.testing.assert_close(other.running_var, layer.running_var)


def test_rounds_only_its_result_to_the_type_of_its_input(image):
    layer = norm()
    low = image.bfloat16()
    expected = layer.eval()(low.float()).bfloat16()
    actual = FrozenBatchNorm2d(layer)(low)
    assert actual.dtype == torch.bfloat16
    assert (actual == expected).float().mean() > 0.97


def test_keeps_a_fused_activation(image):
    layer = norm()
    layer.act, layer.drop = nn.ReLU(), nn.Identity()
    expected = torch.relu(layer.eval()(image))
    torch.testing.assert_close(FrozenBatchNorm2d(layer)(image), expected)


def test_replaces_all_or_the_named_ones():
    def build():
        return nn.Sequential(norm(), nn.Sequential(nn.Conv2d(3, 3, 1), norm()), nn.BatchNorm1d(3))

    model = build()
    freeze_batch_norms(model)
    assert [type(part).__name__ for part in (model[0], model[1][1], model[2])] == [
        "FrozenBatchNorm2d",
        "FrozenBatchNorm2d",
        "BatchNorm1d",
    ]
    model = build()
    freeze_batch_norms(model, {"1.1"})
    assert isinstance(model[0], nn.BatchNorm2d)
    assert isinstance(model[1][1], FrozenBatchNorm2d)
    assert not model[1][1].training or model.training


def test_a_norm_alone_cannot_be_replaced_in_place():
    with pytest.raises(AssertionError, match="in place"):
        freeze_batch_norms(norm())


def test_synchronised_norms_are_frozen_too():
    model = nn.Sequential(nn.SyncBatchNorm(3))
    freeze_batch_norms(model)
    assert isinstance(model[0], FrozenBatchNorm2d)

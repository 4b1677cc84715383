"""SigLIP's loss in tiles equals the dense one. For several ranks see test_trainer_loss_ranks.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.contrastive import dense_sigmoid, features
from clip_trainer.loss import SigmoidLoss


def inputs(rows, seed, bias=-4.0):
    return (*features(rows, 5, seed), torch.tensor(bias, dtype=torch.float64, requires_grad=True))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 33), tile=st.integers(1, 40), seed=st.integers(0, 1000))
def test_tiled_equals_dense_for_any_tile(rows, tile, seed):
    image, text, scale, bias = inputs(rows, seed)
    out = SigmoidLoss(tile)(image, text, scale, logit_bias=bias)
    expected = dense_sigmoid(image, text, scale, bias)
    torch.testing.assert_close(out, expected, rtol=1e-13, atol=1e-13)
    wanted = torch.autograd.grad(expected, (image, text, scale, bias))
    for actual, gradient in zip(torch.autograd.grad(out, (image, text, scale, bias)), wanted, strict=True):
        torch.testing.assert_close(actual, gradient, rtol=1e-12, atol=1e-12)


def test_no_bias_is_a_bias_of_zero():
    image, text, scale, zero = inputs(7, 0, 0.0)
    assert SigmoidLoss(3)(image, text, scale) == SigmoidLoss(3)(image, text, scale, logit_bias=zero)


def test_backward_agrees_with_finite_differences():
    arguments = inputs(7, 3)
    assert torch.autograd.gradcheck(lambda i, t, s, b: SigmoidLoss(3)(i, t, s, logit_bias=b), arguments)


def test_the_upstream_gradient_scales_every_gradient():
    arguments = inputs(6, 1)

    def gradients(factor):
        image, text, scale, bias = arguments
        return torch.autograd.grad(factor * SigmoidLoss(4)(image, text, scale, logit_bias=bias), arguments)

    for a, b in zip(gradients(1), gradients(3), strict=True):
        torch.testing.assert_close(3 * a, b, rtol=1e-13, atol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_huge_logits_neither_overflow_nor_cancel(sign):
    """A matching pair of logit +50 costs exp(-50), not the rounding error of 50."""
    image = torch.ones(1, 1)
    out = SigmoidLoss()(image, image * sign, torch.tensor(50.0))
    assert out.item() == pytest.approx(1.9287498e-22 if sign > 0 else 50.0, rel=1e-5)
    large = SigmoidLoss()(image, -image, torch.tensor(1e30))
    assert large.item() == pytest.approx(1e30)


def test_half_precision_features_are_summed_in_float32():
    image, text, scale, bias = (tensor.detach() for tensor in inputs(16, 5))
    halves = [tensor.bfloat16().requires_grad_() for tensor in (image, text)]
    with torch.autocast("cpu", torch.bfloat16):
        out = SigmoidLoss(8)(*halves, scale.float(), logit_bias=bias.float())
    assert out.dtype == torch.float32
    torch.testing.assert_close(
        out.double(), dense_sigmoid(halves[0].double(), halves[1].double(), scale, bias), rtol=1e-5, atol=0
    )
    out.backward()
    assert halves[0].grad.dtype == torch.bfloat16


def test_memory_holds_no_matrix_of_all_pairs():
    saved = 0

    def count(tensor):
        nonlocal saved
        saved += tensor.numel()
        return tensor

    image, text, scale, bias = inputs(256, 0)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        SigmoidLoss(16)(image, text, scale, logit_bias=bias)
    assert 0 < saved < 256 * 256 / 8


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="tile"):
        SigmoidLoss(0)
    with pytest.raises(ValueError, match="differ in shape"):
        SigmoidLoss()(torch.zeros(2, 3), torch.zeros(3, 3), torch.tensor(1.0))
    with pytest.raises(ValueError, match="empty"):
        SigmoidLoss()(torch.zeros(0, 3), torch.zeros(0, 3), torch.tensor(1.0))

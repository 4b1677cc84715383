"""The tiled loss equals the dense one, whatever the tile. For several ranks see test_trainer_loss_ranks.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.contrastive import dense, features
from clip_trainer.loss import ContrastiveLoss


def reference(rows, width=5, seed=0):
    image, text, scale = features(rows, width, seed)
    loss = dense(image, text, scale)
    return loss.detach(), torch.autograd.grad(loss, (image, text, scale))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 33), tile=st.integers(1, 40), seed=st.integers(0, 1000))
def test_tiled_equals_dense_for_any_tile(rows, tile, seed):
    image, text, scale = features(rows, 5, seed)
    out = ContrastiveLoss(tile)(image, text, scale)
    loss, expected = reference(rows, 5, seed)
    torch.testing.assert_close(out.detach(), loss, rtol=1e-13, atol=1e-13)
    for actual, wanted in zip(torch.autograd.grad(out, (image, text, scale)), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)


def test_backward_agrees_with_finite_differences():
    image, text, scale = features(7, 4, 3)
    loss = ContrastiveLoss(3)
    assert torch.autograd.gradcheck(lambda i, t, s: loss(i, t, s), (image, text, scale))


def test_the_upstream_gradient_scales_every_gradient():
    image, text, scale = features(6, 4, 1)
    plain = torch.autograd.grad(ContrastiveLoss(4)(image, text, scale), (image, text, scale))
    tripled = torch.autograd.grad(3 * ContrastiveLoss(4)(image, text, scale), (image, text, scale))
    for a, b in zip(plain, tripled, strict=True):
        torch.testing.assert_close(3 * a, b, rtol=1e-13, atol=0)


def test_huge_logits_do_not_overflow():
    image, text, _ = features(9, 4, 2)
    scale = torch.tensor(5000.0, dtype=torch.float64, requires_grad=True)
    out = ContrastiveLoss(4)(image, text, scale)
    torch.testing.assert_close(out, dense(image, text, scale), rtol=1e-12, atol=0)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out, (image, text, scale)))


def test_half_precision_features_are_summed_in_float32():
    image, text, scale = features(16, 8, 5)
    halves = [tensor.detach().bfloat16().requires_grad_() for tensor in (image, text)]
    out = ContrastiveLoss(8)(*halves, scale.detach().float())
    widened = dense(halves[0].double(), halves[1].double(), scale)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), widened.detach(), rtol=1e-5, atol=0)
    out.backward()
    assert halves[0].grad.dtype == torch.bfloat16


def test_autocast_does_not_reach_the_sums():
    image, text, scale = (tensor.detach().float() for tensor in features(16, 8, 5))
    with torch.autocast("cpu", torch.bfloat16):
        inside = ContrastiveLoss(8)(image, text, scale)
    assert torch.equal(inside, ContrastiveLoss(8)(image, text, scale))


def test_memory_holds_no_matrix_of_all_pairs():
    """What is saved for backward grows with the batch, not with its square."""
    saved = 0

    def count(tensor):
        nonlocal saved
        saved += tensor.numel()
        return tensor

    image, text, scale = features(256, 4, 0)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        ContrastiveLoss(16)(image, text, scale)
    assert saved < 256 * 256 / 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(3, 3)), "differ in shape"),
        ((torch.zeros(2), torch.zeros(2)), "differ in shape"),
        ((torch.zeros(0, 3), torch.zeros(0, 3)), "empty"),
    ],
)
def test_wrong_shapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss()(*arguments, torch.tensor(1.0))


def test_counts_must_describe_the_batch():
    image, text, scale = features(3, 4, 0)
    with pytest.raises(ValueError, match="2 ranks"):
        ContrastiveLoss()(image, text, scale, counts=[3, 3])
    with pytest.raises(ValueError, match="rank 0"):
        ContrastiveLoss()(image, text, scale, counts=[2])


def test_the_tile_must_be_positive():
    with pytest.raises(ValueError, match="tile"):
        ContrastiveLoss(0)


def test_a_bias_has_no_influence_and_a_gradient_of_zero():
    image, text, scale = features(6, 4, 1)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    out = ContrastiveLoss(4)(image, text, scale, logit_bias=bias)
    assert out == ContrastiveLoss(4)(image, text, scale)
    assert torch.autograd.grad(out, bias)[0].item() == 0.0


def test_without_gradients_the_loss_is_the_same():
    image, text, scale = features(9, 4, 1)
    with torch.no_grad():
        quick = ContrastiveLoss(4)(image, text, scale)
    assert not quick.requires_grad
    assert torch.equal(quick, ContrastiveLoss(4)(image, text, scale).detach())


def test_a_scale_of_shape_one_is_a_number():
    image, text, scale = features(6, 4, 1)
    boxed = scale.detach().reshape(1).requires_grad_()
    out = ContrastiveLoss(4)(image, text, boxed)
    assert out.ndim == 0
    wanted = torch.autograd.grad(ContrastiveLoss(4)(image, text, scale), scale)[0]
    assert torch.equal(torch.autograd.grad(out, boxed)[0], wanted.reshape(1))

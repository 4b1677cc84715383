"""The tiled loss equals the dense one, whatever the tile and however the batch is spread over ranks."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.contrastive import dense, features, rank_gradients
from clip_testkit.ranks import run_ranks
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


@pytest.mark.parametrize(
    ("counts", "tile"),
    [
        ([4, 4], 3),
        ([7, 2], 4),
        ([5, 1, 3], 2),
        ([0, 6, 2], 64),
        ([3, 3, 3, 3], 3),
        ([1, 8, 2, 5], 3),
        ([0, 0, 0, 4], 2),
    ],
)
def test_ranks_together_equal_one_process(tmp_path: Path, counts, tile):
    """Sums over ranks of contribution and scale gradient, and every row's gradient, equal the full batch's."""
    ranks = list(range(len(counts)))
    parts = run_ranks(len(counts), tmp_path, rank_gradients, counts, 5, tile, 11, ranks)
    loss, (d_image, d_text, d_scale) = reference(sum(counts), 5, 11)
    assert sum(part[0] for part in parts) == pytest.approx(float(loss), rel=1e-12)
    assert sum(part[3] for part in parts) == pytest.approx(float(d_scale), rel=1e-12, abs=1e-14)
    for column, expected in ((1, d_image), (2, d_text)):
        gathered = torch.tensor([row for part in parts for row in part[column]], dtype=torch.float64)
        torch.testing.assert_close(gathered, expected, rtol=1e-12, atol=1e-12)


def test_a_group_inside_a_larger_world_shares_its_own_batch(tmp_path: Path):
    parts = run_ranks(3, tmp_path, rank_gradients, [3, 2], 5, 2, 4, [0, 2])
    loss, (d_image, _, _) = reference(5, 5, 4)
    assert parts[0][0] + parts[2][0] == pytest.approx(float(loss), rel=1e-12)
    torch.testing.assert_close(torch.tensor(parts[2][1], dtype=torch.float64), d_image[3:], rtol=1e-12, atol=1e-12)


def test_a_failing_rank_is_reported_by_the_testkit(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"rank 0 failed.*counts names 1 ranks"):
        run_ranks(2, tmp_path, rank_gradients, [4], 5, 2, 4, [0, 1])

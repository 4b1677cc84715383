"""However a batch is spread over 1 to 4 ranks, each loss and all its gradients are those of the full batch."""

import pytest
import torch

from clip_testkit.contrastive import Case, rank_gradients, whole_batch
from clip_testkit.ranks import run_ranks

SEED = 11
SPREADS = [
    ((9,), 4, None),
    ((4, 4), 3, None),
    ((7, 2), 4, None),
    ((3, 2), 2, (0, 2)),
    ((5, 1, 3), 2, None),
    ((0, 6, 2), 64, None),
    ((3, 3, 3, 3), 3, None),
    ((1, 8, 2, 5), 3, None),
    ((0, 0, 0, 4), 2, None),
]
CASES = [Case(loss, *spread) for loss in ("clip", "siglip", "distill") for spread in SPREADS]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of every case, what each of the ranks that share it saw; all cases in one start of four ranks."""
    by_rank = run_ranks(4, tmp_path_factory.mktemp("ranks"), rank_gradients, CASES, SEED)
    return dict(zip(CASES, zip(*by_rank, strict=True), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.loss}-{case.counts}-{case.ranks}")
def test_ranks_together_equal_one_process(results, case):
    """Sums over ranks of contribution and gradients of scale and bias, and every row's gradient."""
    parts = [results[case][rank] for rank in case.members]
    whole = whole_batch(case, SEED)
    assert sum(part.loss for part in parts) == pytest.approx(whole.loss, rel=1e-12)
    assert sum(part.scale for part in parts) == pytest.approx(whole.scale, rel=1e-12, abs=1e-14)
    assert sum(part.bias for part in parts) == pytest.approx(whole.bias, rel=1e-12, abs=1e-14)
    for name in ("image", "text"):
        rows = torch.tensor([row for part in parts for row in getattr(part, name)], dtype=torch.float64)
        torch.testing.assert_close(
            rows, torch.tensor(getattr(whole, name), dtype=torch.float64), rtol=1e-12, atol=1e-12
        )


def test_ranks_outside_the_group_take_no_part(results):
    assert [part is None for part in results[Case("clip", (3, 2), 2, (0, 2))]] == [False, True, False, True]


def test_the_cases_tell_the_losses_apart():
    losses = {whole_batch(Case(loss, (9,)), SEED).loss for loss in ("clip", "siglip", "distill")}
    assert len(losses) == 3


def test_a_failing_rank_is_reported_by_the_testkit(tmp_path):
    wrong = Case("clip", (4, 3), 2, (0, 1))
    with pytest.raises(RuntimeError, match=r"rank 1 failed.*rank 7"):
        run_ranks(2, tmp_path, failing, wrong)


def failing(rank, case):
    if rank == 1:
        raise ValueError(f"rank 7 of {case.loss}")

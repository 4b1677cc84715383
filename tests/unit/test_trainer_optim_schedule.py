"""The learning rate is a pure function of the step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clip_trainer.optim import Schedule, learning_rate, set_learning_rate
from clipctl.contract.errors import SpecError

# Golden numbers of OpenCLIP 3.3.0's scheduler for lr 1e-3, warm-up 10, total 100.
COSINE = Schedule("cosine", 1e-3, 10, 100)
LINEAR = Schedule("constant-cooldown", 1e-3, 10, 100, cooldown_steps=20)
SQUARE = Schedule("constant-cooldown", 1e-3, 10, 100, cooldown_steps=20, cooldown_end=1e-5, cooldown_power=2.0)

WSD = Schedule("wsd", 1e-3, 10, 100, cooldown_steps=20, cooldown_end=1e-5)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (COSINE, 0, 1e-4),
        (COSINE, 4, 5e-4),
        (COSINE, 9, 1e-3),
        (COSINE, 10, 1e-3),
        (COSINE, 55, 5e-4),
        (COSINE, 99, 3.046e-7),
        (LINEAR, 79, 1e-3),
        (LINEAR, 80, 1e-3),
        (LINEAR, 90, 5e-4),
        (LINEAR, 99, 5e-5),
        (SQUARE, 90, 2.575e-4),
        (SQUARE, 99, 1.2475e-5),
        (WSD, 9, 1e-3),
        (WSD, 80, 1e-3),
        (WSD, 85, 1e-3 * 0.5 + 1e-5 * 0.5),
        (WSD, 99, 1e-5 + 0.99e-3 * (1 - 0.95**0.5)),
        (Schedule("none", 1e-3, 10, 100), 0, 1e-3),
        (Schedule("constant", 1e-3, 10, 100), 4, 5e-4),
        (Schedule("constant", 1e-3, 10, 100), 99, 1e-3),
    ],
)
def test_golden(schedule, step, expected):
    assert learning_rate(step, schedule) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [(COSINE, 0.0), (LINEAR, 0.0), (SQUARE, 1e-5), (WSD, 1e-5), (Schedule("constant", 1e-3, 10, 100), 1e-3)],
)
def test_the_end_value_holds_past_the_end(schedule, end):
    assert [learning_rate(step, schedule) for step in (100, 101, 150, 10**9)] == [pytest.approx(end, abs=1e-18)] * 4


@given(
    warmup=st.integers(0, 50),
    span=st.integers(1, 200),
    step=st.integers(0, 400),
    kind=st.sampled_from(["cosine", "constant", "constant-cooldown", "wsd", "none"]),
)
def test_it_stays_between_zero_and_the_peak(warmup, span, step, kind):
    schedule = Schedule(
        kind, 2.0, warmup, warmup + span, cooldown_steps=span if kind in ("constant-cooldown", "wsd") else 0
    )
    assert 0.0 <= learning_rate(step, schedule) <= 2.0


@given(step=st.integers(9, 98))
def test_it_falls_after_the_warm_up(step):
    assert learning_rate(step + 1, COSINE) <= learning_rate(step, COSINE)


def test_no_warm_up_and_no_span():
    assert learning_rate(0, Schedule("cosine", 1.0, 0, 10)) == 1.0
    assert learning_rate(10, Schedule("cosine", 1.0, 10, 10)) == pytest.approx(0.0, abs=1e-15)


def test_unknown_kind_is_the_users_error():
    with pytest.raises(SpecError, match="'cosin'") as caught:
        Schedule("cosin", 1e-3, 10, 100)
    assert "cosine" in caught.value.hint


@pytest.mark.parametrize("steps", [0, 101])
def test_a_cooldown_must_fit(steps):
    with pytest.raises(SpecError, match="cooldown"):
        Schedule("constant-cooldown", 1e-3, 10, 100, cooldown_steps=steps)


def test_setting_reaches_every_group():
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [layer.weight]}, {"params": [layer.bias]}], lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_groups_keep_their_own_factor():
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [layer.weight], "lr_scale": 0.1}, {"params": [layer.bias]}], lr=1.0)
    for lr in (0.5, 0.25):
        set_learning_rate(optimizer, lr)
        assert [group["lr"] for group in optimizer.param_groups] == [lr * 0.1, lr]

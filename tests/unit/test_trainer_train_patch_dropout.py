"""Patch dropout over time."""

import pytest

from clip_testkit.rankwork import small_model
from clip_trainer.train.patch_dropout import PatchDropoutSchedule, rate_at
from clipctl.contract.errors import SpecError
from clipctl.contract.sections import PatchDropoutPoint


def points(*corners):
    return [PatchDropoutPoint(step=step, rate=rate) for step, rate in corners]


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.5), (10, 0.5), (11, 0.475), (20, 0.25), (29, 0.025), (30, 0.0), (39, 0.36), (40, 0.4), (10**9, 0.4)],
)
def test_a_line_through_the_points(step, rate):
    assert rate_at(step, points((10, 0.5), (30, 0.0), (40, 0.4))) == pytest.approx(rate)


def test_a_single_point_is_constant():
    assert [rate_at(step, points((5, 0.3))) for step in (0, 5, 100)] == [0.3] * 3


def test_the_model_gets_it():
    model = small_model()
    schedule = PatchDropoutSchedule(points((0, 0.5), (10, 0.0)), model)
    seen = []
    for step in (0, 5, 10, 15):
        schedule.apply(step)
        seen.append(model.visual.patch_dropout.rate)
    assert seen == [0.5, 0.25, 0.0, 0.0]


def test_without_points_the_model_is_left_alone():
    model = small_model()
    model.set_patch_dropout(0.125)
    PatchDropoutSchedule((), model).apply(3)
    assert model.visual.patch_dropout.rate == 0.125


def test_a_tower_without_patches_is_refused():
    class Convolutional:
        def set_patch_dropout(self, rate):
            raise ValueError("the image tower of this model has no patch dropout")

    with pytest.raises(SpecError, match=r"train.patch_dropout: the image tower of this model has no patch dropout"):
        PatchDropoutSchedule(points((0, 0.5)), Convolutional())
    PatchDropoutSchedule((), Convolutional()).apply(0)

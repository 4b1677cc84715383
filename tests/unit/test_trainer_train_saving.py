"""What a rank says about its saves, whenever they end."""

from types import SimpleNamespace

import pytest

from clip_trainer.checkpoint.save import SaveFailed
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.saving import Saving
from clipctl.contract.errors import UnavailableError
from clipctl.contract.layout import CheckpointId


class EndsMeanwhile:
    """A checkpointer whose save fails just after the n-th question about it."""

    def __init__(self, questions):
        self._left = questions
        self._failed = [SaveFailed(CheckpointId(5, 1), UnavailableError("storage is gone."))]

    def _ended(self):
        self._left -= 1
        return self._left < 0

    @property
    def busy(self):
        return not self._ended()

    def poll(self):
        if not self._ended():
            return []
        found, self._failed = self._failed, []
        return found


@pytest.mark.parametrize("questions", [0, 1, 2])
def test_a_save_that_ends_between_two_questions_is_either_in_flight_or_counted(questions):
    """Else the next one would begin, and hide that this one failed."""
    run = SimpleNamespace(
        checkpointer=EndsMeanwhile(questions),
        incarnation=1,
        group=SimpleNamespace(is_first=True),
        metrics=TrainerMetrics(),
        events=SimpleNamespace(tell=lambda event, problem, step: None),
    )
    wishes = Saving(run).wishes()
    assert wishes.saving or wishes.failed_saves

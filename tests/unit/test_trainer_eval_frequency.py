"""Which evaluation is due after which step."""

from clip_testkit.rankwork import group_of
from clip_trainer.eval.frequency import Frequency, only_by_epoch
from clipctl.contract.sections import EvalSection

ALONE = group_of(0, 1)
BATCH = 10


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def frequency(epoch=100, clock=None, **section):
    raw = {"retrieval": {"data": "x"}, **section}
    return Frequency(EvalSection.model_validate(raw), ALONE, epoch, clock or Clock())


def by_epoch(**section):
    return only_by_epoch(EvalSection.model_validate({"retrieval": {"data": "x"}, **section}))


def due_steps(found, steps, name="retrieval"):
    return [step for step in range(1, steps + 1) if name in found.due(step, (step - 1) * BATCH, step * BATCH)]


def retrieval(**every):
    return {"retrieval": {"data": "x", "every": every}}


def test_by_default_nothing_is_due_on_the_way():
    assert due_steps(frequency(), 50) == []
    assert by_epoch()
    assert by_epoch(**retrieval(epochs=2.0))


def test_by_steps():
    found = frequency(every_steps=3)
    assert due_steps(found, 10) == [3, 6, 9]
    assert not by_epoch(every_steps=3)


def test_its_own_steps_replace_the_common_ones():
    labelled = {"data": "x", "classes": ["a", "b"]}
    found = frequency(every_steps=2, zero_shot={**labelled, "every": {"steps": 5}}, zero_shot_sets={"v2": labelled})
    assert due_steps(found, 10, "zero_shot") == [5, 10]
    assert due_steps(found, 10, "zero_shot_sets.v2") == [2, 4, 6, 8, 10]
    assert due_steps(found, 10) == [2, 4, 6, 8, 10]


def test_by_epochs():
    found = frequency(epoch=95, **retrieval(epochs=1.0))
    assert due_steps(found, 30) == [10, 19, 29]  # the step in which an epoch ends
    assert not by_epoch(**retrieval(epochs=0.5))


def test_by_parts_of_epochs_and_several_epochs():
    assert due_steps(frequency(epoch=100, **retrieval(epochs=0.5)), 12) == [5, 10]
    assert due_steps(frequency(epoch=100, **retrieval(epochs=2.0)), 45) == [20, 40]


def test_a_batch_of_several_epochs():
    assert due_steps(frequency(epoch=4, **retrieval(epochs=1.0)), 3) == [1, 2, 3]


def test_several_reasons():
    assert due_steps(frequency(epoch=40, **retrieval(epochs=1.0, steps=3)), 9) == [3, 4, 6, 8, 9]


def test_by_time():
    clock = Clock()
    found = frequency(clock=clock, **retrieval(seconds=60))
    clock.now = 59.0
    assert not found.due(1, 0, 10)
    clock.now = 60.0
    assert found.due(2, 10, 20) == {"retrieval"}
    found.evaluated(frozenset({"retrieval"}))
    clock.now = 119.0
    assert not found.due(3, 20, 30)
    clock.now = 121.0
    assert found.due(4, 30, 40) == {"retrieval"}
    assert not by_epoch(**retrieval(seconds=60))


def test_the_clock_of_rank_0_decides():
    """Another rank hears of it by broadcast, whatever its own clock says."""

    class Heard:
        def broadcast_json(self, value):
            assert value == []
            return ["retrieval"]

    section = EvalSection.model_validate(retrieval(seconds=60))
    assert Frequency(section, Heard(), 100, Clock()).due(1, 0, 10) == {"retrieval"}


def test_without_times_there_is_no_collective():
    class Silent:
        def broadcast_json(self, value):
            raise AssertionError("a collective in every step")

    section = EvalSection.model_validate({"retrieval": {"data": "x"}, "every_steps": 2})
    assert Frequency(section, Silent(), 100, Clock()).due(2, 10, 20) == {"retrieval"}

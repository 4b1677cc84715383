"""Beginning with the state of another run of ours, which is only read."""

import pytest

from clip_testkit.rankwork import group_of
from clip_testkit.tinystate import begin, incarnate, same, saver, state_at
from clip_trainer.checkpoint.adopting import adopt_run
from clip_trainer.checkpoint.restore import restore
from clipctl.contract.errors import CorruptError, MissingError, SpecError
from clipctl.contract.layout import CheckpointId, checkpoint_prefix
from clipctl.contract.store_local import LocalStore


class Weights:
    """What is trained: takes weights in place, and keeps what else there was."""

    def __init__(self):
        self.parts = {"weights": state_at(99)["weights"]}

    def restore(self, store, group, training_digest, on_reject, wanted):
        return restore(store, group, self.parts, training_digest, on_reject, wanted)


@pytest.fixture
def other(tmp_path):
    """The root of a run with the checkpoints of steps 5, 10 and 15; the loss is 1 / step."""
    store = LocalStore(tmp_path / "other")
    checkpointer = saver(store, incarnate(store), keep=5)
    for step in (5, 10, 15):
        begin(checkpointer, step)
    checkpointer.wait()
    return store


def adopted(location, digest="training"):
    weights = Weights()
    found = adopt_run(weights, group_of(0, 1), location, digest)
    step = found.checkpoint.step
    assert same({**weights.parts, **found.tensors}, state_at(step))
    assert (found.samples_consumed, found.state) == (step * 12, {"step": step})
    return step


@pytest.mark.parametrize(
    ("which", "step"), [("", 15), ("@latest", 15), ("@best", 15), ("@10", 10), ("@step-00000005.inc-000001", 5)]
)
def test_any_checkpoint_of_it(other, which, step):
    assert adopted(other.root + which) == step


def test_nothing_is_written_there(other):
    before = {info.key: other.read(info.key) for info in other.list("")}
    adopted(other.root)
    assert {info.key: other.read(info.key) for info in other.list("")} == before


def test_a_damaged_one_is_passed_over(other):
    for info in other.list(checkpoint_prefix(CheckpointId(15, 1))):
        other.write(info.key, b"damaged")
    assert adopted(other.root) == 10
    with pytest.raises(CorruptError, match="is damaged"):
        adopted(f"{other.root}@15")


@pytest.mark.parametrize(("which", "problem"), [("@7", "holds no checkpoint 7"), ("-not", "holds no checkpoint")])
def test_none_that_fits(other, which, problem):
    with pytest.raises(MissingError, match=problem):
        adopted(other.root + which)


def test_another_model_or_data(other):
    weights = Weights()
    with pytest.raises(SpecError, match="another model, data, global batch or seed") as caught:
        adopt_run(weights, group_of(0, 1), other.root, "another digest")
    assert "model.pretrained" in caught.value.hint
    assert same(weights.parts, {"weights": state_at(99)["weights"]})


def test_a_file_is_no_run():
    with pytest.raises(SpecError, match="not the root of a run"):
        adopted("/somewhere/epoch_3.pt")

"""Bad batches: skipped by all ranks alike, then the weights go back; what happens does not depend on kills."""

import json
import math

import pytest
import torch

from clip_testkit import history
from clip_testkit.trainhere import no_metrics, train_here
from clip_testkit.training import Cue, poison, train_ranks, write_config, write_labelled_dataset
from clip_trainer.config import load_config
from clip_trainer.train.events import read_events, trajectory
from clip_trainer.train.objective import ModelObjective
from clipctl.contract.errors import SpecError
from clipctl.contract.store import open_store

BATCH = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_labelled_dataset(folder / "data", [11, 9, 5])
    return str(folder / "data")


@pytest.fixture
def here(monkeypatch):
    """Runs in this process, with steps (from 1) whose batches are poisoned."""
    no_metrics(monkeypatch.setattr)
    original = ModelObjective.backward

    def poisoned(*steps):
        monkeypatch.setattr(ModelObjective, "backward", original)
        poison([(step - 1) * BATCH for step in steps])

    monkeypatch.setattr(ModelObjective, "backward", original)
    return poisoned


def config_of(tmp_path, data, name="run", steps=10, every=2, **guard):
    train = {"steps": steps, "guard": guard}
    return write_config(tmp_path, name, data, train=train, checkpoint={"every_steps": every, "keep": 3})


def events_of(config, *kinds):
    store = open_store(load_config(config).spec.root)
    return [event for event in read_events(store) if event["event"] in kinds]


def same_weights(one, other):
    return all(torch.equal(t, other.model.state_dict()[n]) for n, t in one.model.state_dict().items())


def test_a_bad_step_is_skipped_and_the_data_goes_on(tmp_path, data, here):
    here(3, 5)
    config = config_of(tmp_path, data)
    run = train_here(config)
    spec = load_config(config).spec
    steps = trajectory(read_events(open_store(spec.root)))
    assert [event["step"] for event in steps if "skipped" in event] == [3, 5]
    assert steps[2]["skipped"] == "the loss is nan"
    assert (steps[2]["loss"], steps[2]["gradient_norm"]) == (None, None)
    assert history.judge(open_store(spec.root), spec) == []
    assert run.trainable.guard.skipped == 2
    assert {float(state["step"]) for state in run.trainable.optimizer.state.values()} == {8.0}
    results = json.loads(open_store(spec.root).read("results.json"))
    assert results["steps"] == 10
    assert math.isfinite(results["final_loss"])
    assert json.loads(open_store(spec.root).read("status.json"))["state"] == "Succeeded"


def test_a_skipped_step_leaves_the_weights_as_they_were(tmp_path, data, here):
    here(4)
    runs = [train_here(config_of(tmp_path, data, f"steps{steps}", steps=steps)) for steps in (3, 4)]
    assert same_weights(*runs)


def test_too_many_in_a_row_bring_the_weights_back(tmp_path, data, here):
    here(5, 6, 7)
    config = config_of(tmp_path, data, max_skipped=2, every=4)
    run = train_here(config)
    (event,) = events_of(config, "rollback")
    assert (event["step"], event["checkpoint"], event["rollbacks"]) == (7, "step-00000004.inc-000001", 1)
    assert "3 steps in a row until step 7 could not be used, at last because the loss is nan." in event["message"]
    assert run.state.step == 10
    assert history.judge(open_store(load_config(config).spec.root), load_config(config).spec) == []
    # No checkpoint amid the bad steps; the next has the one that was gone back to as parent.
    assert [e["step"] for e in events_of(config, "checkpoint")] == [4, 8, 10]


def test_the_weights_after_the_return_are_those_of_the_checkpoint(tmp_path, data, here):
    here(4, 5)  # step 3 is good but is lost with the return to the checkpoint of step 2
    config = config_of(tmp_path, data, max_skipped=1, every=2)
    back = train_here(config, until=5)
    assert [e["checkpoint"] for e in events_of(config, "rollback")] == ["step-00000002.inc-000001"]
    reference = train_here(config_of(tmp_path, data, "reference", every=2), until=2)
    assert same_weights(back, reference)
    assert (back.state.step, back.state.samples_consumed) == (5, 5 * BATCH)


def test_a_second_return_in_vain_goes_further_back(tmp_path, data, here):
    here(*range(7, 11))
    config = config_of(tmp_path, data, max_skipped=1, every=2, steps=14)
    train_here(config)
    assert [(e["step"], e["checkpoint"]) for e in events_of(config, "rollback")] == [
        (8, "step-00000006.inc-000001"),
        (10, "step-00000004.inc-000001"),
    ]


def test_a_later_return_is_to_the_newest_checkpoint(tmp_path, data, here):
    here(5, 12)
    config = config_of(tmp_path, data, max_skipped=0, every=2, steps=14)
    train_here(config)
    assert [e["checkpoint"] for e in events_of(config, "rollback")] == [
        "step-00000004.inc-000001",
        "step-00000010.inc-000001",
    ]


def test_too_many_returns_end_the_run_with_advice(tmp_path, data, here):
    here(*range(5, 20))
    config = config_of(tmp_path, data, steps=20, max_skipped=1, max_rollbacks=1)
    with pytest.raises(SpecError) as caught:
        train_here(config)
    assert "2 steps in a row until step 8 could not be used" in caught.value.problem
    assert "went back 1 times in vain" in caught.value.problem
    assert "train.learning_rate" in caught.value.hint


def test_nowhere_to_go_back_to(tmp_path, data, here):
    here(1)
    with pytest.raises(SpecError, match="There is no checkpoint to go back to"):
        train_here(config_of(tmp_path, data, max_skipped=0))


@pytest.mark.parametrize("stop", [3, 5])
def test_stops_amid_bad_steps_change_nothing(tmp_path, data, here, stop):
    here(4, 5, 6, 9)
    settings = {"max_skipped": 2, "every": 2, "spike_factor": 3.0, "window": 3}
    calm = train_here(config_of(tmp_path, data, "calm", **settings))
    stormy = config_of(tmp_path, data, "stormy", **settings)
    train_here(stormy, until=stop)
    resumed = train_here(stormy)
    assert same_weights(calm, resumed)
    assert resumed.trainable.guard.to_json() == calm.trainable.guard.to_json()


def test_all_ranks_decide_alike_even_if_one_alone_sees_the_nan(tmp_path, data):
    config = config_of(tmp_path, data, "ranks", max_skipped=1, every=2, steps=8)
    outcomes = train_ranks(2, config, tmp_path, [Cue(6, rank=1)], [3 * BATCH, 4 * BATCH])
    assert [code for code, _ in outcomes] == [75, 75], outcomes
    assert [code for code, _ in train_ranks(2, config, tmp_path, (), [3 * BATCH, 4 * BATCH])] == [0, 0]
    spec = load_config(config).spec
    steps = trajectory(read_events(open_store(spec.root)))
    assert [event["step"] for event in steps if "skipped" in event] == [4, 5]
    assert [e["checkpoint"] for e in events_of(config, "rollback")] == ["step-00000002.inc-000001"]
    assert history.judge(open_store(spec.root), spec) == []

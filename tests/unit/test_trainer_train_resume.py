"""Whole training runs, in miniature: the number of ranks, stops and kills change nothing that can be measured."""

import json
import signal

import pytest
import torch

from clip_testkit import history
from clip_testkit.training import CLASSES, Cue, train_ranks, write_config, write_labelled_dataset
from clip_trainer.config import load_config
from clip_trainer.train.events import read_events, trajectory
from clipctl.contract import commits
from clipctl.contract.store import open_store

STEPS = 8
TEMPLATES = ["picture {}", "number {}"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A data set, and three runs of the same spec: one rank, three ranks, and one with a hard life."""
    folder = tmp_path_factory.mktemp("lab")
    write_labelled_dataset(folder / "data", [11, 9, 5])
    data = str(folder / "data")
    evaluation = {
        "retrieval": {"data": data},
        "zero_shot": {"data": data, "classes": CLASSES, "templates": TEMPLATES},
        "every_steps": 5,
    }
    return Lab(folder, {name: write_config(folder, name, data, eval=evaluation) for name in ("one", "three", "hard")})


class Lab:
    def __init__(self, folder, configs):
        self.folder, self.configs = folder, configs

    def train(self, name, world, *cues):
        return train_ranks(world, self.configs[name], self.folder, cues)

    def store(self, name):
        return open_store(load_config(self.configs[name]).spec.root)

    def steps(self, name):
        return trajectory(read_events(self.store(name)))

    def results(self, name):
        return json.loads(self.store(name).read("results.json"))

    def faults(self, name, against=None):
        spec = load_config(self.configs[name]).spec
        return history.judge(self.store(name), spec, against and self.store(against))


@pytest.fixture(scope="module")
def one(lab):
    assert [code for code, _ in lab.train("one", 1)] == [0]
    return lab


@pytest.fixture(scope="module")
def three(one):
    outcomes = one.train("three", 3)
    assert [code for code, _ in outcomes] == [0, 0, 0], outcomes
    return one


@pytest.fixture(scope="module")
def hard(one):
    """Two ranks, one of which is told to stop at step 3; then three, one killed at step 6; then one to the end."""
    phases = [
        one.train("hard", 2, Cue(3, rank=1)),
        one.train("hard", 3, Cue(6, rank=2, signal=signal.SIGKILL)),
        one.train("hard", 1),
    ]
    return one, phases


def test_a_single_rank_trains_to_the_end(one):
    steps = one.steps("one")
    assert [event["step"] for event in steps] == list(range(1, STEPS + 1))
    assert one.faults("one") == []
    results = one.results("one")
    assert (results["steps"], results["samples_consumed"]) == (STEPS, STEPS * 12)
    assert results["final_loss"] == steps[-1]["loss"]


def test_the_results_are_all_there(one):
    store = one.store("one")
    assert store.read("loss.png").startswith(b"\x89PNG")
    assert {info.key for info in store.list("export/")} == {
        "export/open_clip_config.json",
        "export/open_clip_model.safetensors",
    }
    assert json.loads(store.read("status.json"))["state"] == "Succeeded"
    assert store.read("LATEST") == b"step-00000008.inc-000001\n"
    assert [str(c) for c in commits.list_checkpoints(store)] == ["step-00000004.inc-000001", "step-00000008.inc-000001"]


def test_the_loss_goes_down(one):
    losses = [event["loss"] for event in one.steps("one")]
    assert losses[-1] < losses[0]


def test_evaluation_on_the_way_is_in_the_ledger(one):
    assert [e["step"] for e in read_events(one.store("one")) if e["event"] == "eval"] == [5, 8]


def test_three_ranks_see_the_same_samples_and_losses(three):
    assert three.faults("three", against="one") == []
    for mine, other in zip(three.steps("three"), three.steps("one"), strict=True):
        assert mine["digest"] == other["digest"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
        assert (mine["first"], mine["end"], mine["lr"]) == (other["first"], other["end"], other["lr"])


def test_three_ranks_evaluate_alike(three):
    for name, numbers in three.results("one").items():
        if name in ("zero_shot", "retrieval"):
            assert three.results("three")[name] == pytest.approx(numbers, abs=1e-6)
    assert three.results("one")["zero_shot"]["images"] == 25


def test_three_ranks_end_with_the_same_weights(three):
    from clip_trainer.model.interchange import from_bytes

    weights = [from_bytes(three.store(name).read("export/open_clip_model.safetensors")) for name in ("one", "three")]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        other = weights[1][name]
        if name.endswith("in_proj_bias"):
            # Softmax does not see the bias of the keys: its gradient is rounding noise, which Adam scales up.
            third = len(tensor) // 3
            tensor, other = (torch.cat([t[:third], t[2 * third :]]) for t in (tensor, other))
        torch.testing.assert_close(tensor, other, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_a_request_to_one_rank_stops_all_with_a_checkpoint(hard):
    lab, (stopped, _, _) = hard
    assert [code for code, _ in stopped] == [75, 75]
    assert "stopped at step 4 on request; the state is saved" in stopped[1][1]
    assert "cannot form again" in stopped[0][1]  # with a launcher it would have gone on alone
    first = [(e["event"], e.get("step")) for e in read_events(lab.store("hard")) if e["incarnation"] == 1]
    assert first[-2:] == [("checkpoint", 4), ("stopped", 4)]


def test_ranks_that_lose_a_peer_end_soon_and_say_try_again(hard):
    _, (_, killed, _) = hard
    assert [code for code, _ in killed] == [75, 75, -signal.SIGKILL]
    assert all("Traceback" not in output for _, output in killed)


def test_a_run_with_a_hard_life_equals_an_undisturbed_one(hard):
    lab, (_, _, finished) = hard
    assert [code for code, _ in finished] == [0]
    assert lab.faults("hard", against="one") == []
    for mine, other in zip(lab.steps("hard"), lab.steps("one"), strict=True):
        assert mine["digest"] == other["digest"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_incarnations_and_their_origins_are_on_record(hard):
    lab, _ = hard
    started = [e for e in read_events(lab.store("hard")) if e["event"] == "started"]
    assert [(e["incarnation"], e["world"], e["step"], e["resumed_from"]) for e in started] == [
        (1, 2, 0, None),
        (2, 3, 4, "step-00000004.inc-000001"),
        (3, 1, 4, "step-00000004.inc-000001"),
    ]
    newest = commits.newest_verified(lab.store("hard"), lambda r: pytest.fail(str(r)))
    assert (newest.step, newest.incarnation, newest.parent) == (8, 3, "step-00000004.inc-000001")


def test_running_a_finished_run_again_changes_nothing(hard):
    lab, _ = hard
    before = [event["digest"] for event in lab.steps("hard")]
    assert [code for code, _ in lab.train("hard", 2)] == [0, 0]
    assert [event["digest"] for event in lab.steps("hard")] == before
    assert lab.results("hard")["steps"] == STEPS
    assert lab.faults("hard", against="one") == []

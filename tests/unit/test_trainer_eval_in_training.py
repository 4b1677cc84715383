"""A whole run that evaluates on its way, logs, is stopped and goes on."""

import json

import pytest

from clip_testkit.training import CLASSES, Cue, train_ranks, write_config, write_labelled_dataset
from clip_trainer.train.events import read_events
from clipctl.contract.store import open_store

SAMPLES, BATCH = 25, 12


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Storage of a run of 8 steps that was stopped after step 6 and resumed by two ranks."""
    folder = tmp_path_factory.mktemp("evaluated")
    data = str(folder / "data")
    write_labelled_dataset(folder / "data", [11, 9, 5])
    labelled = {"data": data, "classes": list(CLASSES)}
    evaluation = {
        "zero_shot": {**labelled, "every": {"epochs": 1.0}},
        "zero_shot_sets": {"imagenetv2": labelled},
        "retrieval": {"data": data, "every": {"steps": 4}},
    }
    changes = {"eval": evaluation, "log": {"every_steps": 3, "tensorboard": True}}
    config = write_config(folder, "logged", data, **changes)
    ((stopped, output),) = train_ranks(1, config, folder, [Cue(5)])
    assert stopped == 75, output
    for code, output in train_ranks(2, config, folder):
        assert code == 0, output
    return open_store(str(folder / "runs" / "logged"))


def evaluated(store):
    """Which evaluations were done after which step."""
    return [
        (event["step"], sorted({"zero_shot", "zero_shot_sets", "retrieval"} & event.keys()))
        for event in read_events(store)
        if event["event"] == "eval"
    ]


def test_every_evaluation_has_its_own_frequency(store):
    """Epochs of 25 samples end in steps 3, 5 and 7."""
    everything = ["retrieval", "zero_shot", "zero_shot_sets"]
    assert evaluated(store) == [
        (3, ["zero_shot"]),
        (4, ["retrieval"]),
        (5, ["zero_shot"]),
        (7, ["zero_shot"]),
        (8, everything),
    ]


def test_the_results_are_those_of_the_end(store):
    results = json.loads(store.read("results.json"))
    last = [event for event in read_events(store) if event["event"] == "eval"][-1]
    for name in ("zero_shot", "zero_shot_sets", "retrieval"):
        assert results[name] == last[name]
    assert results["retrieval"]["num_samples"] == SAMPLES


def test_tensorboard_has_each_step_once(store):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(f"{store.root}/tensorboard", size_guidance={"scalars": 0}).Reload()
    train = {f"train/{name}" for name in ("data_time", "batch_time", "scale", "lr", "contrastive_loss", "loss")}
    train |= {"train/samples_per_second", "train/samples_per_second_per_gpu"}
    tags = set(found.Tags()["scalars"])
    assert {tag for tag in tags if tag.startswith("train/")} == train
    assert {"val/zeroshot-val-top1", "val/imagenetv2-zeroshot-val-top5", "val/clip_val_loss"} <= tags
    assert [event.step for event in found.Scalars("train/loss")] == [0, 3, 6, 7]
    assert [event.step for event in found.Scalars("val/clip_val_loss")] == [4, 8]
    epochs = [event.value for event in found.Scalars("val/epoch")]
    assert epochs == pytest.approx([step * BATCH / SAMPLES for step in (3, 4, 5, 7, 8)])


def test_what_is_logged_is_what_the_ledger_says(store):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(f"{store.root}/tensorboard").Reload()
    ledger = {event["step"]: event["loss"] for event in read_events(store) if event["event"] == "step"}
    logged = {event.step + 1: event.value for event in found.Scalars("train/loss")}
    assert logged == pytest.approx({step: ledger[step] for step in logged}, rel=1e-6)


def test_the_command_finds_in_the_checkpoint_what_the_run_found(store, tmp_path):
    from clip_trainer.eval import command
    from clipctl.evaluation import Questions, request_of
    from clipctl.evaluationsubject import Choice, find_subject

    data = f"{store.root}/../../data"
    subject = find_subject(store.root, tmp_path, Choice())
    section = Questions(data=data, classes=",".join(CLASSES), retrieval=data).section(None)
    request = request_of(subject, section, precision="fp32", device="cpu", processes=1)
    (tmp_path / "request.json").write_text(json.dumps(request))
    found = command.main([str(tmp_path / "request.json")])["results"]
    results = json.loads(store.read("results.json"))
    assert subject.checkpoint is not None
    assert subject.checkpoint.startswith("step-00000008")
    for name in ("zero_shot", "retrieval"):
        assert found[name] == pytest.approx(results[name], abs=1e-5)

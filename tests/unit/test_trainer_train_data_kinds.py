"""Whole runs in miniature on every kind of data: several sources, drawn or not, tables, synthetic samples."""

import math
import signal

import numpy as np
import pytest

from clip_testkit import history
from clip_testkit.runyaml import spec_with
from clip_testkit.shards import png
from clip_testkit.trainhere import no_metrics, prepared, train_here
from clip_testkit.training import Cue, train_ranks, write_config, write_labelled_dataset
from clip_trainer.config import load_config
from clip_trainer.data.samples.opening import open_training_data
from clip_trainer.train.events import read_events, trajectory
from clip_trainer.train.sources import by_source
from clipctl.contract import metric_names
from clipctl.contract.errors import MissingError, SpecError
from clipctl.contract.store import open_store


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Two data sets and a table of five rows; run names are sections of run.yaml to configurations."""
    no_metrics(monkeypatch.setattr)
    write_labelled_dataset(tmp_path / "one", [9, 5])
    write_labelled_dataset(tmp_path / "two", [7])
    rows = ["filepath,title", *(f"{number}.png,picture {number}" for number in range(5))]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def config(lab, name="run", **data):
    return write_config(lab, name, "unused", data={"shuffle_block": 4, **data}, train={"steps": 6})


def steps_of(path):
    return trajectory(read_events(open_store(load_config(path).spec.root)))


def judged(path):
    spec = load_config(path).spec
    return history.judge(open_store(spec.root), spec)


def weighted(lab):
    return {
        "train": [{"url": f"{lab}/one", "weight": 1.0}, {"url": f"{lab}/two", "weight": 3.0}],
        "resample": {"weight_by": "source", "samples_per_epoch": 24},
    }


def test_synthetic_samples_have_the_loss_of_guessing(lab):
    path = config(lab, train="synthetic:50")
    run = train_here(path)
    assert run.dataset.parts[0].image_size == (16, 16), "the model's size"
    assert [step["loss"] for step in steps_of(path)] == pytest.approx([math.log(12)] * 6, abs=1e-5)


def test_a_table_is_trained_on_where_it_lies(lab):
    (lab / "3.png").unlink()
    path = config(lab, train=f"{lab}/table.csv", max_replaced=0.5)
    run = train_here(path)
    replaced = [event for event in read_events(open_store(run.spec.root)) if event["event"] == "replaced"]
    assert {(event["key"], event["reason"]) for event in replaced} == {("3.png", "missing file")}
    assert run.state.replaced == len(replaced) > 0
    assert "sources" not in steps_of(path)[0], "there is only one"
    assert judged(path) == []


def test_a_table_without_its_images_never_starts(lab):
    with pytest.raises(MissingError, match="none of the first 5 images"):
        prepared(config(lab, train=f"{lab}/table.csv", columns={"root": "/nowhere"}))


def test_several_sources_are_counted(lab):
    path = config(lab, train=f"{lab}/one::{lab}/two::{lab}/table.csv")
    run = train_here(path)
    assert run.order.samples == 26
    shown = [step["sources"] for step in steps_of(path)]
    assert all(sum(counts) == 12 for counts in shown)
    whole_epochs = [sum(counts) for counts in zip(*shown[:4], strict=True)]  # 48 of 52 samples
    assert all(abs(count - 2 * size) <= 4 for count, size in zip(whole_epochs, (14, 7, 5), strict=True))
    counter = run.metrics[metric_names.TRAIN_SOURCE_SAMPLES].labels(f"{lab}/one")
    assert counter._value.get() == sum(counts[0] for counts in shown)
    assert judged(path) == []


def test_epochs_of_another_length(lab):
    path = write_config(
        lab, "run", f"{lab}/one", data={"epoch_samples": 30}, train={"steps": None, "epochs": 2, "warmup_steps": 1}
    )
    run = prepared(path)
    assert (run.epoch_samples, run.total_steps, run.schedule.total_steps) == (30, 5, 5)
    assert run.order.samples == 14, "the order does not change"


def test_drawn_sources_on_ranks_that_are_killed(lab):
    """Two ranks, a kill, the replay of a step, one rank: the samples are those that the order alone says."""
    path, calm = (config(lab, name, **weighted(lab)) for name in ("hard", "calm"))
    assert any(code != 0 for code, _ in train_ranks(2, path, lab, [Cue(5, rank=1, signal=signal.SIGKILL)]))
    train_here(path)
    train_here(calm)
    assert judged(path) == []
    assert history.compare(steps_of(path), steps_of(calm)) == []
    shown = [sum(counts) for counts in zip(*(step["sources"] for step in steps_of(path)), strict=True)]
    assert sum(shown) == 72
    assert abs(shown[1] - 54) <= 10, "the second source has three quarters"


def test_another_weight_is_another_run(lab):
    train_here(config(lab, **weighted(lab)), until=3)
    other = weighted(lab)
    other["train"][1]["weight"] = 2.0
    with pytest.raises(SpecError, match="belongs to a run with another model, data"):
        prepared(config(lab, **other))


def test_evaluation_on_a_table(lab):
    path = write_config(
        lab,
        "run",
        f"{lab}/one",
        train={"steps": 1},
        eval={"retrieval": {"data": f"{lab}/table.csv::{lab}/two"}},
    )
    run = train_here(path)
    results = open_store(run.spec.root).read("results.json").decode()
    assert '"num_samples": 12' in results


@pytest.mark.parametrize(
    ("ids", "counts"), [([], [0, 0, 0]), ([0, 13, 14, 20, 21, 25], [2, 2, 2]), ([25, 25, 14], [0, 1, 2])]
)
def test_samples_by_source(lab, ids, counts):
    samples = open_training_data(spec_with(f"data.train='{lab}/one::{lab}/two::{lab}/table.csv'").data)
    assert by_source(samples, np.array(ids, np.int64)) == counts

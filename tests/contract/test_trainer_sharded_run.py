"""A run with a sharded model from end to end: stopped in the middle, resumed by more ranks, evaluated and exported."""

import signal

import numpy as np
import pytest
from safetensors.numpy import load

from clip_testkit.shards import write_dataset
from clip_testkit.training import Cue, train_ranks, write_config
from clip_trainer.train.events import read_events, trajectory
from clipctl.contract import layout
from clipctl.contract.store import open_store

STEPS = 8


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The store of a sharded run, that of the same run in one process, and exit codes and output of the former."""
    folder = tmp_path_factory.mktemp("sharded")
    write_dataset(folder / "data", [13, 20])
    data, average = str(folder / "data"), {"decay": 0.5}
    sharded = write_config(folder, "sharded", data, train={"parallel": "fsdp", "grad_clip_norm": 1.0, "ema": average})
    plain = write_config(folder, "plain", data, train={"grad_clip_norm": 1.0, "ema": average})
    stopped = train_ranks(2, sharded, folder, [Cue(5, rank=1, signal=signal.SIGTERM)])
    resumed = train_ranks(3, sharded, folder)
    alone = train_ranks(1, plain, folder)
    outcomes = {"stopped": stopped, "resumed": resumed, "alone": alone}
    return open_store(str(folder / "runs" / "sharded")), open_store(str(folder / "runs" / "plain")), outcomes


@pytest.mark.parametrize(("part", "codes"), [("stopped", [75, 75]), ("resumed", [0, 0, 0]), ("alone", [0])])
def test_processes_end_as_they_should(stores, part, codes):
    assert [code for code, _ in stores[2][part]] == codes, stores[2][part]


def test_the_losses_are_those_of_one_process(stores):
    ours, plain = (trajectory(read_events(store)) for store in stores[:2])
    assert [step["step"] for step in ours] == list(range(1, STEPS + 1))
    assert {step["world"] for step in ours} == {2, 3}
    for step, expected in zip(ours, plain, strict=True):
        assert (step["digest"], step["lr"]) == (expected["digest"], expected["lr"])
        assert step["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_it_was_resumed_where_it_stopped(stores):
    started = [event for event in read_events(stores[0]) if event["event"] == "started"]
    assert [event["world"] for event in started] == [2, 3]
    assert started[1]["step"] in (6, 7)  # the stop is agreed on in the step after the signal
    assert started[1]["resumed_from"] is not None


@pytest.mark.parametrize("kind", ["", "raw/"])
def test_the_export_is_that_of_one_process(stores, kind):
    ours, plain = (load(store.read(f"{layout.EXPORT}{kind}open_clip_model.safetensors")) for store in stores[:2])
    assert ours.keys() == plain.keys()
    for name, array in plain.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-3, atol=2e-5, err_msg=name)

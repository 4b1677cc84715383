"""Stopped and resumed runs equal undisturbed ones bit for bit, whatever `train.*` says."""

import json

import pytest
import torch

from clip_testkit.trainhere import no_metrics, train_here
from clip_testkit.training import write_config, write_labelled_dataset
from clip_trainer.config import load_config
from clip_trainer.model.interchange import from_bytes
from clip_trainer.train.events import read_events, trajectory
from clipctl.contract import commits
from clipctl.contract.errors import SpecError
from clipctl.contract.store import open_store

EMA = {"decay": 0.8, "every_steps": 2}
# Every optimiser there is: see the tests of its state.
SETTINGS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "optimizer_options": {"nesterov": True}},
    "nadam": {"optimizer": "nadam", "beta1": 0.8, "ema": EMA},
    "lion": {"optimizer": "timm/lion", "learning_rate": 1e-4},
    "everything": {
        "ema": EMA,
        "layer_decay": {"image": 0.7, "text": 0.9},
        "parameter_groups": [{"match": "visual.conv1.*", "learning_rate_scale": 0.0}],
        "no_decay": ["token_embedding.*"],
        "decay_rule": "modern",
        "schedule": "wsd",
        "cooldown_epochs": 1.5,
        "grad_clip_norm": 0.5,
        "patch_dropout": [{"step": 0, "rate": 0.5}, {"step": 4, "rate": 0.0}],
        "guard": {"spike_factor": 5.0, "window": 2},
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_labelled_dataset(folder / "data", [11, 9, 5])
    return str(folder / "data")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    no_metrics(monkeypatch.setattr)


def config_of(tmp_path, data, name, precision="fp32", **train):
    return write_config(tmp_path, name, data, train={"steps": 6, **train}, model={"precision": precision})


def store_of(config):
    return open_store(load_config(config).spec.root)


def state_of(run):
    parts, numbers = run.trainable.collect()
    return {(part, key): tensor.clone() for part, tensors in parts.items() for key, tensor in tensors.items()}, numbers


def assert_equal(one, other):
    (tensors, numbers), (others, other_numbers) = state_of(one), state_of(other)
    assert tensors.keys() == others.keys()
    for key, tensor in tensors.items():
        assert torch.equal(tensor, others[key]), key
    assert numbers == other_numbers


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_stop_changes_nothing(tmp_path, data, name):
    calm_config = config_of(tmp_path, data, "calm", **SETTINGS[name])
    stormy_config = config_of(tmp_path, data, "stormy", **SETTINGS[name])
    calm = train_here(calm_config)
    assert train_here(stormy_config, until=3).state.step == 3
    resumed = train_here(stormy_config)
    assert_equal(calm, resumed)
    steps = [trajectory(read_events(store_of(config))) for config in (calm_config, stormy_config)]
    for mine, other in zip(*steps, strict=True):
        assert (mine["loss"], mine["lr"], mine["gradient_norm"]) == (other["loss"], other["lr"], other["gradient_norm"])
    for key in (info.key for info in store_of(calm_config).list("export/") if info.key.endswith("safetensors")):
        exports = [from_bytes(store_of(config).read(key)) for config in (calm_config, stormy_config)]
        assert all(torch.equal(tensor, exports[1][name]) for name, tensor in exports[0].items())


@pytest.mark.parametrize("precision", ["amp", "pure_bf16"])
def test_in_other_precisions_too(tmp_path, data, precision):
    calm = train_here(config_of(tmp_path, data, "calm", precision, ema=EMA))
    stormy = config_of(tmp_path, data, "stormy", precision, ema=EMA)
    train_here(stormy, until=3)
    resumed = train_here(stormy)
    assert_equal(calm, resumed)
    assert (resumed.trainable.scaler is not None) is (precision == "amp")


def test_the_loss_scale_is_in_the_checkpoint(tmp_path, data):
    config = config_of(tmp_path, data, "scaled", "amp")
    run = train_here(config, until=3)
    record = commits.newest_verified(store_of(config), lambda r: pytest.fail(str(r)))
    kept = commits.read_manifest(store_of(config), record).state["loss_scale"]
    assert kept == run.trainable.scaler.to_json()
    assert kept["good_steps"] + run.trainable.guard.skipped <= 3


class TestAverage:
    def test_the_average_is_exported_and_the_raw_weights_beside_it(self, tmp_path, data):
        config = config_of(tmp_path, data, "averaged", ema=EMA)
        run = train_here(config)
        store = store_of(config)
        assert {info.key for info in store.list("export/")} == {
            f"export/{folder}open_clip_{name}"
            for folder in ("", "raw/")
            for name in ("config.json", "model.safetensors")
        }
        exported = from_bytes(store.read("export/open_clip_model.safetensors"))
        raw = from_bytes(store.read("export/raw/open_clip_model.safetensors"))
        for name, tensor in run.model.state_dict().items():
            assert torch.equal(raw[name], tensor)
            assert torch.equal(exported[name], run.trainable.average.tensors()[name])
        assert not torch.equal(raw["visual.proj"], exported["visual.proj"])

    def test_evaluation_sees_the_average_and_training_does_not(self, tmp_path, data):
        seen = {}

        def evaluated(name, **train):
            retrieval = {"retrieval": {"data": data}, "every_steps": 2}
            path = write_config(tmp_path, name, data, train={"steps": 6, **train}, eval=retrieval)
            run = train_here(path)
            seen[name] = [e["retrieval"] for e in read_events(store_of(path)) if e["event"] == "eval"]
            return run

        plain, averaged = evaluated("plain"), evaluated("averaged", ema={"decay": 0.999})
        assert seen["plain"] != seen["averaged"]
        assert all(torch.equal(t, averaged.model.state_dict()[n]) for n, t in plain.model.state_dict().items())

    def test_it_may_be_switched_on_and_off_on_the_way(self, tmp_path, data):
        train_here(config_of(tmp_path, data, "late"), until=3)
        on = train_here(config_of(tmp_path, data, "late", ema=EMA), until=5)
        assert on.trainable.average is not None
        off = train_here(config_of(tmp_path, data, "late"))
        assert_equal(off, train_here(config_of(tmp_path, data, "plain")))


def test_another_optimiser_cannot_continue(tmp_path, data):
    train_here(config_of(tmp_path, data, "run"), until=3)
    with pytest.raises(SpecError, match=r"the state of train\.optimizer adamw, not sgd") as caught:
        train_here(config_of(tmp_path, data, "run", optimizer="sgd"))
    assert caught.value.code == 64
    assert "model.pretrained" in caught.value.hint


def test_the_ledger_has_the_learning_rates_of_the_schedule(tmp_path, data):
    schedule = {"schedule": "constant-cooldown", "cooldown_steps": 3, "cooldown_end": 1e-4, "learning_rate": 1e-3}
    config = config_of(tmp_path, data, "cooled", **schedule)
    run = train_here(config)
    rates = [event["lr"] for event in trajectory(read_events(store_of(config)))]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 7e-4, 4e-4])
    assert json.loads(store_of(config).read("results.json"))["steps"] == 6
    assert {group["lr"] for group in run.trainable.optimizer.param_groups} == {rates[-1]}

"""Whole runs that minimise something else than CLIP's loss: the terms reach ledger and metrics, and resume."""

import json

import pytest

from clip_testkit.objectivework import CONFIGS
from clip_testkit.trainhere import train_here
from clip_testkit.training import write_config, write_labelled_dataset
from clip_trainer.model import create_model
from clip_trainer.model.config import ClipConfig
from clip_trainer.train.events import read_events, trajectory
from clip_trainer.train.metrics import TrainerMetrics
from clipctl.contract.errors import SpecError
from clipctl.contract.store import open_store

STEPS = 4
VOCABULARY = {"vocab_size": 49408}


def real_vocabulary(name):
    """A tiny configuration that takes the tokens of CLIP's tokenizer."""
    config = CONFIGS[name]
    return config | {key: config[key] | VOCABULARY for key in ("text_cfg", "multimodal_cfg") if key in config}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_labelled_dataset(folder, [9, 8])
    return str(folder)


@pytest.fixture
def lab(tmp_path, data, monkeypatch):
    """Makes a configuration of a run of four steps with one of the tiny models."""
    monkeypatch.setattr(TrainerMetrics, "serve", lambda *_: 0)

    def make(name, run="demo", **loss):
        path = tmp_path / "model.json"
        path.write_text(json.dumps(real_vocabulary(name)))
        train = {"steps": STEPS, "loss": loss, "warmup_steps": 1}
        return write_config(tmp_path, run, data, model={"name": name, "config": str(path)}, train=train)

    return make


@pytest.fixture
def teacher(tmp_path):
    """A published model, as a folder."""
    from safetensors.torch import save_file

    folder = tmp_path / "teacher"
    folder.mkdir()
    model = create_model(ClipConfig.from_dict(real_vocabulary("teacher"), "teacher"), "fp32", 3)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": real_vocabulary("teacher")}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return {"model": f"local-dir:{folder}", "pretrained": str(folder)}


def check(run, names):
    events = trajectory(read_events(open_store(run.spec.root)))
    assert [event["step"] for event in events] == list(range(1, STEPS + 1))
    for event in events:
        assert set(event["losses"]) == names
        assert sum(event["losses"].values()) == pytest.approx(event["loss"], rel=1e-12)
    assert events[-1]["loss"] < events[0]["loss"]
    for name in names:
        shown = run.metrics.registry.get_sample_value("clip_train_loss_term", {"term": name})
        assert shown == pytest.approx(events[-1]["losses"][name])
    return events


def test_siglip(lab):
    run = train_here(lab("clip", kind="siglip"))
    check(run, {"contrastive_loss"})
    assert run.model.logit_bias.item() != -10.0
    assert run.model.logit_bias.item() == pytest.approx(-10.0, abs=0.1)


def test_coca(lab):
    events = check(train_here(lab("coca")), {"contrastive_loss", "caption_loss"})
    assert events[-1]["losses"]["caption_loss"] < events[0]["losses"]["caption_loss"]


def test_captions_alone(lab):
    events = check(train_here(lab("coca", contrastive_weight=0.0)), {"contrastive_loss", "caption_loss"})
    assert {event["losses"]["contrastive_loss"] for event in events} == {0.0}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_teacher(lab, teacher, kind):
    check(train_here(lab("clip", kind=kind, distill=teacher)), {"contrastive_loss", "distill_loss"})


def test_a_run_that_stops_goes_on_with_the_same_numbers(lab, teacher):
    names = {"contrastive_loss", "distill_loss"}
    undisturbed = check(train_here(lab("clip", run="whole", kind="siglip", distill=teacher)), names)
    config = lab("clip", kind="siglip", distill=teacher)
    train_here(config, until=2)
    resumed = check(train_here(config), names)
    assert [event["losses"] for event in resumed] == [event["losses"] for event in undisturbed]


def test_a_teacher_of_another_size_is_refused_before_the_first_step(lab):
    config = lab("clip", distill={"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"})
    with pytest.raises(SpecError, match="takes images of 224x224 pixels, the student 16x16"):
        train_here(config)

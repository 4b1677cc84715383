"""The folder a run leaves behind is complete: what it was trained with is what it is used with."""

import json

import pytest
import torch

import clip_trainer
from clip_testkit import smalltokenizers
from clip_testkit.shards import write_dataset
from clip_testkit.trainhere import no_metrics, train_here
from clip_testkit.training import SMALL_MODEL, write_config
from clip_trainer.model.config import ClipConfig
from clip_trainer.text import tokenizer_for
from clip_trainer.train.export import tokenizer_files
from clip_trainer.weights.activation import ActivationMismatch
from clip_trainer.weights.read import read_weights


def text_config(**changes):
    return ClipConfig.from_dict({**SMALL_MODEL, "text_cfg": {**SMALL_MODEL["text_cfg"], **changes}}, "x").text


def test_clips_own_tokenizer_needs_no_files():
    assert tokenizer_files(text_config()) == {}


@pytest.mark.parametrize("make", [smalltokenizers.bert, smalltokenizers.roberta], ids=["bert", "roberta"])
def test_the_files_of_a_tokenizer_make_the_same_tokenizer(tmp_path, make):
    config = text_config(hf_tokenizer_name=str(make(tmp_path / "source")))
    (tmp_path / "copy").mkdir()
    for name, data in tokenizer_files(config).items():
        (tmp_path / "copy" / name).write_bytes(data)
    original, copy = tokenizer_for(config), tokenizer_for(config, source=str(tmp_path / "copy"))
    texts = smalltokenizers.sentences(20)
    assert torch.equal(original(texts), copy(texts))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A short run with its own tokenizer, activation and preprocessing."""
    no_metrics(monkeypatch.setattr)
    write_dataset(tmp_path / "data", [12])
    tokenizer = str(smalltokenizers.bert(tmp_path / "tokenizer"))
    path = write_config(
        tmp_path,
        "exported",
        str(tmp_path / "data"),
        train={"steps": 1, "ema": {"decay": 0.5}},
        model={"quick_gelu": True, "preprocess": {"mean": [0.1, 0.2, 0.3], "resize_mode": "squash"}},
        scale={"nodes": {"max": 1}},
    )
    text = {**SMALL_MODEL["text_cfg"], "hf_tokenizer_name": tokenizer}
    (tmp_path / "small-model.json").write_text(json.dumps({**SMALL_MODEL, "text_cfg": text}))
    return train_here(path), tmp_path / "runs" / "exported" / "export"


def test_an_export_is_a_complete_model(trained):
    run, export = trained
    model, preprocess = clip_trainer.create_model_from_pretrained(f"local-dir:{export}")
    average = run.trainable.average.state_dict()
    assert all(torch.equal(value, average[key]) for key, value in model.state_dict().items())
    assert model.config == run.model.config
    assert model.config.quick_gelu
    attached = model.visual.preprocess_cfg
    assert (list(attached["mean"]), attached["resize_mode"]) == ([0.1, 0.2, 0.3], "squash")
    assert preprocess is not None
    texts = smalltokenizers.sentences(5)
    ours, used = clip_trainer.get_tokenizer(f"local-dir:{export}"), tokenizer_for(run.model.config.text)
    assert torch.equal(ours(texts), used(texts))
    raw = read_weights(export / "raw" / "open_clip_model.safetensors")
    assert torch.equal(raw.state_dict["visual.proj"], run.model.visual.proj)
    assert (export / "raw" / "open_clip_config.json").exists()


def test_an_export_knows_its_activation(trained, tmp_path):
    _, export = trained
    weights = export / "open_clip_model.safetensors"
    assert read_weights(weights).quick_gelu is True
    (tmp_path / "plain.json").write_text(json.dumps(SMALL_MODEL))
    clip_trainer.add_model_config(tmp_path / "plain.json")
    with pytest.raises(ActivationMismatch):
        clip_trainer.create_model("plain", pretrained=str(weights))
    clip_trainer.create_model("plain", pretrained=str(weights), force_quick_gelu=True)


def test_a_run_does_not_go_on_with_the_other_activation(trained, tmp_path):
    run, _ = trained
    path = tmp_path / "exported.json"
    content = json.loads(path.read_text())
    content["spec"]["model"]["quick_gelu"] = None
    path.write_text(json.dumps(content))
    with pytest.raises(ActivationMismatch, match="checkpoint step-00000001"):
        train_here(path)
    assert run.state.step == 1

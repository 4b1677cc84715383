"""What `model.*` of run.yaml says reaches the model, on every rank alike."""

import json
import math
import os

import pytest
import safetensors.torch
import torch

import clip_trainer
from clip_testkit.ranks import run_ranks
from clip_testkit.rankwork import group_of
from clip_testkit.training import SMALL_MODEL
from clip_trainer.model import create_model
from clip_trainer.model.config import ClipConfig
from clip_trainer.model.interchange import open_clip_config, save_weights
from clip_trainer.train.build import build_model, compile_towers, find
from clip_trainer.weights.activation import ActivationMismatch
from clipctl.contract.errors import CorruptError, MissingError, SpecError
from clipctl.contract.sections import LossSection, ModelSection


def config(**changes):
    return ClipConfig.from_dict({**SMALL_MODEL, **changes}, "small")


@pytest.fixture
def section(tmp_path):
    """A `model` section for the small model."""
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL))

    def make(**changes):
        raw = {"name": "mine", "config": str(tmp_path / "small.json"), "precision": "fp32", **changes}
        return ModelSection.model_validate(raw)

    return make


def build(section, *, fresh=True, seed=0, **loss):
    return build_model(section, LossSection.model_validate(loss), seed, group_of(0, 1), fresh=fresh)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_named_model_is_the_one_of_the_factory():
    assert same(
        build(ModelSection(name="ViT-tiny-8-32", precision="fp32"), seed=3), create_model("ViT-tiny-8-32", seed=3)
    )


def test_a_configuration_file(section, tmp_path):
    assert same(build(section()), create_model(config()))
    (tmp_path / "wrapped.json").write_text(json.dumps({"model_cfg": SMALL_MODEL, "preprocess_cfg": {}}))
    assert same(build(section(config=f"file://{tmp_path}/wrapped.json")), create_model(config()))


def test_unknown_and_unreadable_models(section, tmp_path):
    with pytest.raises(SpecError, match="no model called"):
        build(ModelSection(name="ViT-B-33"))
    with pytest.raises(MissingError):
        build(section(config=str(tmp_path / "none.json")))
    for content in ("{", "[]", '{"embed_dim": 3}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(SpecError, match=r"model\.config .*bad\.json"):
            build(section(config=str(tmp_path / "bad.json")))


def test_overrides(section):
    model = build(
        section(
            quick_gelu=True,
            custom_text=True,
            image_size=[16, 32],
            context_length=9,
            patch_dropout=0.5,
            init_logit_scale=1.5,
            init_logit_bias=-3.0,
            precision="pure_bf16",
            preprocess={"mean": [0.1, 0.2, 0.3], "resize_mode": "squash"},
        )
    )
    made = model.config
    assert (made.quick_gelu, made.custom_text, made.vision.patch_dropout) == (True, True, 0.5)
    assert (made.vision.image_hw, made.text.context_length) == ((16, 32), 9)
    assert (model.logit_scale.item(), model.logit_bias.item()) == (1.5, -3.0)
    assert model.logit_scale.dtype == torch.bfloat16
    attached = model.visual.preprocess_cfg
    assert (tuple(attached["mean"]), attached["resize_mode"], tuple(attached["size"])) == (
        (0.1, 0.2, 0.3),
        "squash",
        (16, 32),
    )


def test_the_sigmoid_loss_starts_scale_and_bias_its_own_way(section):
    assert build(section()).logit_bias is None
    model = build(section(), kind="siglip")
    assert model.logit_scale.item() == pytest.approx(math.log(10))
    assert model.logit_bias.item() == -10
    assert build(section(init_logit_bias=-2.0), kind="siglip").logit_bias.item() == -2


def test_weights_from_a_file_with_other_sizes(section, tmp_path):
    source = create_model(config(), seed=5)
    torch.save({f"module.{k}": v for k, v in source.state_dict().items()}, tmp_path / "w.pt")
    assert same(build(section(pretrained=str(tmp_path / "w.pt"))), source)
    resized = build(section(pretrained=str(tmp_path / "w.pt"), image_size=32, context_length=30))
    assert resized.visual.positional_embedding.shape[0] == 17
    assert torch.equal(resized.token_embedding.weight, source.token_embedding.weight)


def test_weights_are_not_fetched_once_the_run_has_a_checkpoint(section, tmp_path):
    wanted = section(pretrained=str(tmp_path / "gone.pt"))
    with pytest.raises(MissingError):
        build(wanted)
    assert same(build(wanted, fresh=False), create_model(config()))


def test_a_folder_is_a_model(tmp_path):
    source = create_model(config(quick_gelu=True), seed=5)
    save_weights(source.state_dict(), tmp_path / "open_clip_model.safetensors", quick_gelu=True)
    content = open_clip_config(source.config)
    content["preprocess_cfg"]["std"] = [0.5, 0.5, 0.5]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    model = build(ModelSection(name=f"local-dir:{tmp_path}", precision="fp32"))
    assert same(model, source)
    assert list(model.visual.preprocess_cfg["std"]) == [0.5] * 3
    assert same(build(ModelSection(name=f"file://{tmp_path}", precision="fp32")), source)


def test_the_other_activation(section, tmp_path):
    source = create_model(config(), seed=5)
    save_weights(source.state_dict(), tmp_path / "w.safetensors", quick_gelu=True)
    with pytest.raises(CorruptError, match=r"model\.quick_gelu: true"):
        build(section(pretrained=str(tmp_path / "w.safetensors")))
    for chosen in (True, False):
        assert same(build(section(pretrained=str(tmp_path / "w.safetensors"), quick_gelu=chosen)), source)


def test_a_tag_brings_preprocessing_and_activation():
    source = find(ModelSection(name="ViT-B-32-quickgelu", pretrained="openai"))
    assert source.quick_gelu is True
    assert find(ModelSection(name="ViT-L-14", pretrained="laion2b_s32b_b82k")).preprocess["std"] == (0.5,) * 3


def test_unsafe_weights(section, tmp_path):
    torch.save({"a": print}, tmp_path / "w.pt")
    with pytest.raises(CorruptError, match="could run code"):
        build(section(pretrained=str(tmp_path / "w.pt")))


def test_locks(section):
    model = build(section(lock_image={}, lock_text={"unlocked_layers": 1}))
    assert not any(p.requires_grad for p in model.visual.parameters())
    assert model.text_projection.requires_grad
    assert not model.token_embedding.weight.requires_grad
    partly = build(section(lock_image={"unlocked_groups": 1}))
    assert [n for n, p in partly.visual.named_parameters() if p.requires_grad] == ["proj"]


def gradients(model):
    torch.manual_seed(0)
    image, text = torch.randn(2, 3, 16, 16), torch.randint(1, 99, (2, 16))
    out = model(image, text)
    ((out[0] * out[1]).sum() * out[2]).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_checkpointing_changes_no_gradient(section):
    plain, checkpointed = gradients(build(section())), gradients(build(section(grad_checkpointing=True)))
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert build(section(grad_checkpointing=True)).transformer.grad_checkpointing


@pytest.mark.parametrize("custom_text", [True, False])
def test_compiling_keeps_names_and_gradients(section, monkeypatch, custom_text):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(self))
    plain, model = build(section(custom_text=custom_text)), build(section(custom_text=custom_text, compile=True))
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert len(compiled) == 2
    expected = gradients(plain)
    assert all(torch.equal(value, expected[name]) for name, value in gradients(model).items())
    compile_towers(model)
    assert len(compiled) == 4


def build_on(rank, world, folder, raw):
    """What a rank's model is: digests of its tensors, or the error."""
    if rank:  # only rank 0 may look at files
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.chdir("/")
    try:
        model = build_model(ModelSection.model_validate(raw), LossSection(), 0, group_of(rank, world), fresh=True)
    except Exception as error:
        return type(error).__name__, str(error)
    return {key: value.double().sum().item() for key, value in model.state_dict().items()}


def test_every_rank_has_the_weights_that_rank_0_read(section, tmp_path):
    source = create_model(config(), seed=5)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
    raw = section(pretrained=str(tmp_path / "w.safetensors")).model_dump()
    (tmp_path / "ranks").mkdir()
    results = run_ranks(2, tmp_path / "ranks", build_on, 2, str(tmp_path), raw)
    expected = {key: value.double().sum().item() for key, value in source.state_dict().items()}
    assert results == [expected, expected]


def test_every_rank_hears_of_a_failure(section, tmp_path):
    (tmp_path / "ranks").mkdir()
    raw = section(pretrained=str(tmp_path / "none.pt")).model_dump()
    results = run_ranks(2, tmp_path / "ranks", build_on, 2, str(tmp_path), raw)
    assert results[0] == results[1]
    assert "none.pt" in results[0][1]


def test_the_interface_loads_what_a_run_exports(tmp_path):
    source = build(ModelSection(name="ViT-tiny-8-32", precision="fp32", quick_gelu=True))
    save_weights(source.state_dict(), tmp_path / "open_clip_model.safetensors", quick_gelu=True)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config(source.config)))
    assert same(clip_trainer.create_model(f"local-dir:{tmp_path}"), source)
    with pytest.raises(ActivationMismatch):
        clip_trainer.create_model("ViT-tiny-8-32", pretrained=str(tmp_path / "open_clip_model.safetensors"))

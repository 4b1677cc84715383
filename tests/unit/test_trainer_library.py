"""The library interface without the oracle: names, sources of models, overrides, errors."""

import json
import subprocess
import sys
import warnings

import pytest
import safetensors.torch
import torch
from PIL import Image

import clip_trainer
from clip_trainer import api
from clip_trainer.library import create as creation
from clip_trainer.library.source import find_source
from clip_trainer.model.interchange import open_clip_config
from clip_trainer.pretrained import registry
from clip_trainer.pretrained.fetching import Fetcher
from clip_trainer.weights.activation import ActivationMismatch
from clipctl.contract.errors import ClipError, CorruptError, ExitCode, MissingError

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


@pytest.fixture
def tiny(tmp_path):
    """The name of a small model that was added."""
    (tmp_path / "library-tiny.json").write_text(json.dumps(TINY))
    clip_trainer.add_model_config(tmp_path / "library-tiny.json")
    return "library-tiny"


@pytest.fixture
def folder(tiny, tmp_path):
    """A model in a folder, as our export writes it."""
    torch.manual_seed(7)
    model = clip_trainer.create_model(tiny)
    place = tmp_path / "export"
    place.mkdir()
    safetensors.torch.save_file(model.state_dict(), place / "open_clip_model.safetensors")
    content = open_clip_config(model.config)
    content["preprocess_cfg"] |= {"mean": [0.5, 0.5, 0.5], "resize_mode": "squash"}
    (place / "open_clip_config.json").write_text(json.dumps(content))
    return place, model


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_importing_the_package_imports_nothing():
    code = (
        "import sys, clip_trainer; from clip_trainer import data; print(sorted(m for m in sys.modules if 'torch' in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_offers_the_interface():
    assert set(api.__all__) == clip_trainer._INTERFACE
    assert all(getattr(clip_trainer, name) is getattr(api, name) for name in api.__all__)
    assert set(api.__all__) <= set(dir(clip_trainer))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = clip_trainer.no_such_thing


def test_models_are_sorted_with_numbers_as_numbers():
    names = clip_trainer.list_models()
    assert names.index("ViT-B-16") < names.index("ViT-B-32") < names.index("ViT-B-32-256")
    assert names.index("RN50x4") < names.index("RN50x16") < names.index("RN50x64") < names.index("RN101")


def test_configurations_are_copies():
    config = clip_trainer.get_model_config("ViT-B-32")
    config["vision_cfg"]["layers"] = 1
    assert clip_trainer.get_model_config("ViT-B-32")["vision_cfg"]["layers"] == 12
    assert clip_trainer.get_model_config("nothing") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B-32", (None, "ViT-B-32")),
        ("hf-hub:org/repo", ("hf-hub", "org/repo")),
        ("local-dir:./x", ("local-dir", "./x")),
        ("s3://bucket/model", ("url", "s3://bucket/model")),
    ],
)
def test_schemes_of_names(name, expected):
    assert clip_trainer.parse_model_name(name) == expected


@pytest.mark.parametrize("name", ["hf-hub:", "local-dir:"])
def test_a_scheme_alone_is_no_name(name):
    with pytest.raises(ValueError, match="nothing stands behind"):
        clip_trainer.parse_model_name(name)


def test_fresh_weights_follow_the_global_generator(tiny):
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(clip_trainer.create_model(tiny))
    assert same(models[0], models[1])
    assert not same(models[0], models[2])
    assert models[0].training


def test_a_folder(folder):
    place, source = folder
    model, preprocess = clip_trainer.create_model_from_pretrained(f"local-dir:{place}")
    assert same(model, source)
    attached = clip_trainer.get_model_preprocess_cfg(model)
    assert (list(attached["mean"]), attached["resize_mode"], attached["size"]) == ([0.5] * 3, "squash", (32, 32))
    assert preprocess(Image.new("RGB", (90, 20))).shape == (3, 32, 32)
    assert clip_trainer.get_model_config(f"local-dir:{place}")["embed_dim"] == 16
    assert clip_trainer.get_tokenizer(f"local-dir:{place}")(["a"]).shape == (1, 8)


def test_an_address_of_a_folder(folder):
    place, source = folder
    assert same(clip_trainer.create_model(f"file://{place}"), source)
    (place / "open_clip_model.safetensors").unlink()
    torch.save(source.state_dict(), place / "open_clip_pytorch_model.bin")
    assert same(clip_trainer.create_model(f"file://{place}"), source)


def test_pretrained_is_ignored_with_a_folder(folder, caplog):
    place, source = folder
    assert same(clip_trainer.create_model(f"local-dir:{place}", pretrained="openai"), source)
    assert "ignored" in caplog.text


def test_without_load_weights_the_architecture_alone_is_taken(folder):
    place, source = folder
    model = clip_trainer.create_model(f"local-dir:{place}", load_weights=False)
    assert not same(model, source)
    assert clip_trainer.get_model_preprocess_cfg(model)["resize_mode"] == "squash"


def test_a_file(tiny, folder, tmp_path):
    _, source = folder
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "epoch_1.pt")
    for name in (str(tmp_path / "epoch_1.pt"), f"file://{tmp_path}/epoch_1.pt"):
        assert same(clip_trainer.create_model(tiny, pretrained=name), source)
    target = clip_trainer.create_model(tiny)
    assert clip_trainer.load_checkpoint(target, str(tmp_path / "epoch_1.pt")) == ([], [])
    assert same(target, source)


def test_sizes_are_forced_onto_configuration_and_weights(tiny, folder, tmp_path):
    _, source = folder
    torch.save(source.state_dict(), tmp_path / "w.pt")
    model = clip_trainer.create_model(tiny, str(tmp_path / "w.pt"), force_image_size=(64, 32), force_context_length=12)
    assert model.visual.positional_embedding.shape == (4 * 2 + 1, 32)
    assert model.positional_embedding.shape == (12, 32)
    assert clip_trainer.get_model_preprocess_cfg(model)["size"] == (64, 32)
    assert clip_trainer.get_model_tokenize_cfg(model) == {"context_length": 12, "vocab_size": 50}


def test_other_overrides(tiny):
    model = clip_trainer.create_model(
        tiny,
        force_quick_gelu=True,
        force_custom_text=True,
        force_patch_dropout=0.25,
        force_preprocess_cfg={"mean": (0.1, 0.2, 0.3), "unknown": 1, "std": None},
        output_dict=True,
        init_logit_bias=-10.0,
        init_logit_scale=2.0,
        cast_dtype=None,
    )
    config = model.config
    assert (config.quick_gelu, config.custom_text, config.vision.patch_dropout) == (True, True, 0.25)
    assert (model.logit_scale.item(), model.logit_bias.item()) == (2.0, -10.0)
    assert model.visual.preprocess_cfg["mean"] == (0.1, 0.2, 0.3)
    out = model(torch.zeros(1, 3, 32, 32), torch.ones(1, 8, dtype=torch.int64))
    assert set(out) == {"image_features", "text_features", "logit_scale", "logit_bias"}


def test_weights_of_one_tower(tiny, tmp_path):
    donor = clip_trainer.create_model(tiny, force_custom_text=True)
    torch.save(donor.visual.state_dict(), tmp_path / "image.pt")
    torch.save(donor.text.state_dict(), tmp_path / "text.pt")
    paths = {"pretrained_image_path": str(tmp_path / "image.pt"), "pretrained_text_path": str(tmp_path / "text.pt")}
    for custom in (True, False):
        model = clip_trainer.create_model(tiny, force_custom_text=custom, **paths)
        assert same(model.visual, donor.visual)
        text = model.text if custom else model
        assert torch.equal(text.token_embedding.weight, donor.text.token_embedding.weight)


def test_towers_of_libraries_start_from_their_own_weights_only_without_others(tiny, folder, tmp_path, monkeypatch):
    seen = []
    real = creation.assemble.build
    monkeypatch.setattr(creation.assemble, "build", lambda *a, **k: (seen.append(a[2]), real(*a, **k))[1])
    clip_trainer.create_model(tiny, pretrained_image=True)
    clip_trainer.create_model(tiny, pretrained_hf=False)
    clip_trainer.create_model(f"local-dir:{folder[0]}", pretrained_image=True)
    torch.save({}, tmp_path / "nothing.pt")
    clip_trainer.create_model(tiny, pretrained_image=True, pretrained_image_path=str(tmp_path / "nothing.pt"))
    flags = [(start.pretrained_image, start.pretrained_text) for start in seen]
    assert flags == [(True, True), (False, False), (False, False), (False, True)]


def test_transforms(tiny):
    model, train, evaluate = clip_trainer.create_model_and_transforms(
        tiny,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
        image_interpolation="bilinear",
        image_resize_mode="longest",
        aug_cfg={"scale": (0.5, 1.0)},
    )
    attached = model.visual.preprocess_cfg
    assert (attached["mean"], attached["interpolation"]) == ((0.0, 0.0, 0.0), "bilinear")
    white = Image.new("RGB", (64, 32), "white")
    assert train(white).shape == (3, 32, 32)
    assert evaluate(white)[:, 0].max() == 0  # padded, since the longer side was scaled
    assert evaluate(white)[:, 16].min() == 1


def test_required_weights(tiny):
    with pytest.raises(RuntimeError, match="No weights are given"):
        clip_trainer.create_model(tiny, require_pretrained=True)
    with pytest.raises(RuntimeError, match="No weights are given"):
        clip_trainer.create_model_from_pretrained(tiny)


def test_an_unknown_model():
    with pytest.raises(RuntimeError, match=r"no model called 'ViT-B-33'.*Did you mean ViT-B-32") as caught:
        clip_trainer.create_model("ViT-B-33")
    assert isinstance(caught.value, ClipError)
    assert caught.value.code == ExitCode.USAGE


def test_unknown_weights(tiny):
    with pytest.raises(RuntimeError, match="no_such_tag") as caught:
        clip_trainer.create_model("ViT-B-32", pretrained="no_such_tag")
    assert "openai" in str(caught.value)
    assert isinstance(caught.value, ClipError)


def test_weights_that_cannot_be_fetched():
    with pytest.raises(RuntimeError) as caught:
        clip_trainer.create_model("ViT-B-32", pretrained="laion2b_s34b_b79k")
    assert isinstance(caught.value, ClipError)
    assert caught.value.code != ExitCode.INTERNAL
    assert "offline" in str(caught.value).lower()


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no directory"):
        clip_trainer.create_model(f"local-dir:{tmp_path}/none")
    with pytest.raises(FileNotFoundError, match="open_clip_config"):
        clip_trainer.create_model(f"local-dir:{tmp_path}")
    with pytest.raises(FileNotFoundError):
        clip_trainer.get_tokenizer(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_cfg": 3}'])
def test_folders_with_a_bad_configuration(tmp_path, content):
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(ValueError):
        clip_trainer.create_model(f"local-dir:{tmp_path}")


def test_weights_of_another_architecture(tiny, tmp_path):
    torch.save(clip_trainer.create_model("ViT-tiny-8-32").state_dict(), tmp_path / "w.pt")
    with pytest.raises(RuntimeError, match="does not fit the model"):
        clip_trainer.create_model(tiny, pretrained=str(tmp_path / "w.pt"))


def test_unsafe_weights(tiny, tmp_path):
    torch.save({"a": print}, tmp_path / "w.pt")
    for weights_only in (True, False):
        with pytest.raises(CorruptError, match="could run code"):
            clip_trainer.create_model(tiny, pretrained=str(tmp_path / "w.pt"), weights_only=weights_only)


def test_the_registry_decides_about_the_activation(monkeypatch, tmp_path):
    """A tag that needs QuickGELU, as `openai` does, with a model that has GELU."""
    monkeypatch.setattr("clip_trainer.library.source.Fetcher.weights", fetched(tmp_path))
    for options in ({}, {"force_image_size": 64}):
        with pytest.raises(ActivationMismatch, match="ViT-B-32 openai was trained with QuickGELU"):
            clip_trainer.create_model("ViT-B-32", pretrained="openai", **SMALL, **options)
    clip_trainer.create_model("ViT-B-32", pretrained="openai", force_quick_gelu=True, **SMALL)
    clip_trainer.create_model("ViT-B-32", pretrained="openai", quick_gelu=False, **SMALL)
    clip_trainer.create_model("ViT-B-32-quickgelu", pretrained="openai", **SMALL)
    clip_trainer.create_model("ViT-B-32", pretrained="laion2b_e16", **SMALL)


SMALL = {"embed_dim": 16, "vision_cfg": TINY["vision_cfg"], "text_cfg": TINY["text_cfg"]}


def fetched(tmp_path):
    """A fetcher whose weights always are those of the small model."""
    from types import SimpleNamespace

    model = clip_trainer.create_model("ViT-B-32", **SMALL)
    torch.save(model.state_dict(), tmp_path / "fetched.pt")
    return lambda self, model, source, **options: SimpleNamespace(path=tmp_path / "fetched.pt")


def test_every_tag_of_the_registry_fits_one_name_of_its_model():
    """Otherwise weights would be refused under every name they have."""
    for model, tag in registry.list_pretrained():
        names = [model, f"{model}-quickgelu"] if f"{model}-quickgelu" in clip_trainer.list_models() else [model]
        sources = [find_source(name, tag) for name in names]
        fitting = [source for source in sources if source.quick_gelu == source.config.get("quick_gelu", False)]
        assert fitting or not needs_activation(sources[0]), (model, tag)


def needs_activation(source):
    from clip_trainer.model import ClipConfig
    from clip_trainer.weights.activation import depends_on_activation

    return depends_on_activation(ClipConfig.from_dict(source.config, source.name))


def test_a_tag_brings_its_preprocessing():
    source = find_source("ViT-L-14", "laion2b_s32b_b82k")
    assert source.preprocess["mean"] == (0.5, 0.5, 0.5)
    assert find_source("ViT-L-14", "datacomp_xl_s13b_b90k").preprocess["mean"][0] == pytest.approx(0.48145466)


def test_openai_archives_by_path(tmp_path):
    sizes = {**TINY["vision_cfg"], "head_width": 64, "width": 64}
    options = {"embed_dim": 16, "vision_cfg": sizes, "text_cfg": {**TINY["text_cfg"], "width": 64, "heads": 1}}
    donor = clip_trainer.create_model("ViT-B-32", quick_gelu=True, **options)
    numbers = {"input_resolution": 32, "context_length": 8, "vocab_size": 50}
    state = {key: value.half() for key, value in donor.state_dict().items()}
    torch.save(state | {key: torch.tensor(value) for key, value in numbers.items()}, tmp_path / "openai.pt")
    model = clip_trainer.load_openai_model(str(tmp_path / "openai.pt"), device="cpu")
    assert model.config.quick_gelu
    assert not model.training
    assert all(torch.equal(value, state[key].float()) for key, value in model.state_dict().items())
    with pytest.raises(ActivationMismatch):
        clip_trainer.create_model("ViT-B-32", pretrained=str(tmp_path / "openai.pt"), **options)
    with pytest.raises(RuntimeError, match="published no model called 'ViT-Z'"):
        clip_trainer.load_openai_model("ViT-Z", device="cpu")
    assert "ViT-B-32" in clip_trainer.list_openai_models()


def test_openai_archives_by_name_are_the_original_files(monkeypatch):
    seen = []

    def fetch(self, url, sha256=None):
        seen.append(url)
        raise MissingError("not here")

    monkeypatch.setattr(Fetcher, "url", fetch)
    with pytest.raises(MissingError):
        clip_trainer.load_openai_model("ViT-B/32", device="cpu")
    assert seen == [clip_trainer.get_pretrained_url("ViT-B-32", "openai")]


def test_what_a_model_carries_along():
    bare = torch.nn.Module()
    bare.image_size, bare.image_mean = 24, (0.5,) * 3
    assert clip_trainer.get_model_preprocess_cfg(bare) == {"size": 24, "mean": (0.5,) * 3}
    given = {"mean": (0.1,) * 3, "std": (0.2,) * 3, "size": 7}
    clip_trainer.set_model_preprocess_cfg(bare, given)
    given["size"] = 8
    assert clip_trainer.get_model_preprocess_cfg(bare)["size"] == 7
    assert (bare.image_mean, bare.image_std) == ((0.1,) * 3, (0.2,) * 3)


@pytest.mark.parametrize("precision", ["fp32", "amp", "amp_bf16", "bf16", "fp16", "pure_bf16", "pure_fp16"])
def test_types_of_precisions(precision):
    low = torch.bfloat16 if "bf16" in precision else torch.float16
    assert clip_trainer.get_cast_dtype(precision) == (low if precision in ("bf16", "fp16") else None)
    assert clip_trainer.get_input_dtype(precision) == (None if precision.startswith(("amp", "fp32")) else low)


def test_tokenizers(tiny, caplog):
    assert clip_trainer.get_tokenizer(tiny)("a cat").shape == (1, 8)
    assert clip_trainer.get_tokenizer(tiny, context_length=20)(["a", "b"]).shape == (2, 20)
    assert clip_trainer.get_tokenizer()("a").shape == (1, 77)
    assert not caplog.text
    assert clip_trainer.get_tokenizer("no-such-model")("a").shape == (1, 77)
    assert "no-such-model" in caplog.text
    assert clip_trainer.tokenize("a diagram")[0, :4].tolist() == [49406, 320, 22697, 49407]


def test_jit_is_declined_aloud(tiny, caplog):
    assert clip_trainer.create_model(tiny, jit=True).training
    assert "TorchScript" in caplog.text


def test_nothing_warns(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip_trainer.create_model(tiny)

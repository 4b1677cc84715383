"""Hugging Face text towers, offline."""

import json
import sys

import pytest
import torch
from torch import nn

from clip_testkit import tinymodels
from clip_trainer.model import ClipConfig, create_model, get_config, model_names
from clip_trainer.model.config import TextConfig
from clip_trainer.model.hf_architecture import hf_config
from clip_trainer.model.hf_pooling import POOLERS
from clip_trainer.model.hf_text import HFTextTower
from clipctl.contract.errors import MissingError, SpecError, UnavailableError

PARAMETERS = {
    "roberta-ViT-B-32": 124.87,
    "xlm-roberta-base-ViT-B-32": 278.27,
    "xlm-roberta-large-ViT-H-14": 560.94,
    "mt5-base-ViT-B-32": 277.86,
    "mt5-xl-ViT-H-14": 1674.68,
    "nllb-clip-base": 414.04,
    "nllb-clip-large": 767.14,
    "coca_roberta-ViT-B-32": 124.45,
}
"""Millions in the text tower: OpenCLIP's docs/model_profile.csv."""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def make(tmp_path):
    def build(kind="roberta", **text):
        data = tinymodels.hf(tinymodels.hf_folder(tmp_path / kind, kind), **text)
        return create_model(ClipConfig.from_dict(data, kind)).text

    return build


def output(states, pooled=None):
    return type("Output", (), {"last_hidden_state": states, "pooler_output": pooled})()


@pytest.mark.parametrize("name", PARAMETERS)
def test_built_in_models_have_the_published_sizes(name):
    config = get_config(name)
    with torch.device("meta"):
        tower = HFTextTower(config.text, config.embed_dim)
    assert sum(parameter.numel() for parameter in tower.parameters()) / 1e6 == pytest.approx(PARAMETERS[name], abs=0.01)


def test_every_named_model_with_a_hugging_face_tower_is_built_in_without_the_network():
    names = {get_config(name).text.hf_model_name for name in model_names() if get_config(name).text.kind == "hf"}
    assert len(names) == 7
    for name in names:
        assert hf_config(name).vocab_size > 50_000
    assert hf_config("FacebookAI/roberta-base").hidden_size == 768


def test_poolers_see_the_text_and_not_the_padding():
    states = torch.tensor([[[1.0, 5.0], [3.0, -1.0], [100.0, 100.0]], [[-7.0, 0.5], [9.0, 9.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    pooled = {name: pooler(output(states), mask) for name, pooler in POOLERS.items()}
    assert pooled["mean_pooler"].tolist() == [[2.0, 2.0], [-7.0, 0.5]]
    assert pooled["max_pooler"].tolist() == [[3.0, 5.0], [-7.0, 0.5]]
    assert pooled["cls_pooler"].tolist() == pooled["cls_last_hidden_state_pooler"].tolist() == states[:, 0].tolist()


def test_the_models_own_pooling_is_used_by_one_pooler_only():
    states, own = torch.zeros(2, 3, 4), torch.ones(2, 4)
    mask = torch.ones(2, 3, dtype=torch.int64)
    assert torch.equal(POOLERS["cls_pooler"](output(states, own), mask), own)
    assert not POOLERS["cls_last_hidden_state_pooler"](output(states, own), mask).any()


def test_a_text_of_padding_alone_has_a_finite_mean():
    pooled = POOLERS["mean_pooler"](output(torch.ones(1, 3, 2)), torch.zeros(1, 3, dtype=torch.int64))
    assert pooled.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("kind", tinymodels.HF)
def test_padding_does_not_change_a_feature(make, kind):
    tower = make(kind).eval()
    pad = tower.config.pad_token_id
    text = tinymodels.texts(rows=1, length=6, pad=pad)
    padded = torch.nn.functional.pad(text, (0, 4), value=pad)
    assert tower(text).shape == (1, 12)
    torch.testing.assert_close(tower(padded), tower(text), rtol=1e-4, atol=1e-5)


def test_a_model_without_a_padding_token_sees_everything(make):
    tower = make().eval()
    text = tinymodels.texts(pad=1)
    masked = tower(text)
    # Positions depend on the padding too, so only the mask is looked at.
    tower.config.pad_token_id = None
    _, mask = tower._encode(text)
    assert mask.all()
    assert not torch.allclose(tower(text), masked)


@pytest.mark.parametrize(
    ("pooler", "keys"), [("mean_pooler", set()), ("cls_pooler", {"pooler.dense.weight", "pooler.dense.bias"})]
)
def test_the_models_pooling_layer_is_there_only_if_used(make, pooler, keys):
    found = {key.removeprefix("transformer.") for key in make(hf_pooler_type=pooler).state_dict() if ".pooler." in key}
    assert found == keys


@pytest.mark.parametrize("kind", ["mt5", "m2m_100"])
def test_decoders_are_left_out(make, kind):
    assert not [key for key in make(kind).state_dict() if "decoder" in key]


@pytest.mark.parametrize(
    ("proj", "shapes"),
    [("linear", {"proj.weight": (12, 24)}), ("mlp", {"proj.0.weight": (18, 24), "proj.2.weight": (12, 18)})],
)
def test_projections(make, proj, shapes):
    tower = make(hf_proj_type=proj)
    assert {key: tuple(p.shape) for key, p in tower.named_parameters() if key.startswith("proj")} == shapes
    assert tower(tinymodels.texts(pad=1)).shape == (3, 12)


def test_no_projection_needs_equal_widths(tmp_path):
    folder = tinymodels.hf_folder(tmp_path / "roberta", "roberta")
    section = TextConfig(hf_model_name=folder, hf_proj_type=None)
    with torch.device("meta"):
        assert isinstance(HFTextTower(section, 24).proj, nn.Identity)
        with pytest.raises(SpecError, match="24 wide, the shared space 12"):
            HFTextTower(section, 12)


def test_fresh_weights_depend_on_the_seed_alone(make):
    tower = make()
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(99)
        before = torch.get_rng_state()
        tower.materialise(seed, pretrained=False)
        assert torch.equal(torch.get_rng_state(), before)
        states.append({key: value.clone() for key, value in tower.state_dict().items()})
    for key in states[0]:
        assert torch.equal(states[0][key], states[1][key])
    word = "transformer.embeddings.word_embeddings.weight"
    assert not torch.equal(states[0][word], states[2][word])
    assert not torch.equal(states[0]["proj.0.weight"], states[2]["proj.0.weight"])
    assert states[0][word].std().item() == pytest.approx(0.02, rel=0.1)


def test_no_tensor_is_left_without_storage(make):
    for kind in tinymodels.HF:
        tower = make(kind)
        tensors = [*tower.parameters(), *tower.buffers()]
        assert tensors
        assert not any(tensor.is_meta for tensor in tensors)


def test_published_weights_are_read_from_a_folder(make, tmp_path):
    tower = make("roberta")
    tinymodels.fill(tower)
    folder = tmp_path / "published"
    tower.transformer.save_pretrained(folder)
    assert folder.joinpath("model.safetensors").exists()
    data = tinymodels.hf(str(folder))
    loaded = create_model(ClipConfig.from_dict(data, "roberta"), pretrained_text=True).text
    for key, value in tower.transformer.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[key], value), key
    fresh = create_model(ClipConfig.from_dict(data, "roberta")).text
    assert not torch.equal(fresh.proj[0].weight, tower.proj[0].weight)
    assert torch.equal(fresh.proj[0].weight, loaded.proj[0].weight)


def test_pickled_weights_are_not_read(make, tmp_path):
    folder = tmp_path / "pickled"
    tower = make()
    tinymodels.hf_folder(folder, "roberta")
    torch.save(tower.transformer.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(MissingError, match="no readable weights"):
        create_model(ClipConfig.from_dict(tinymodels.hf(str(folder)), "roberta"), pretrained_text=True)


def test_code_of_a_repository_is_not_run(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    folder.joinpath("canary.py").write_text("raise SystemExit('code was run')")
    names = {"AutoConfig": "canary.Config", "AutoModel": "canary.Model"}
    folder.joinpath("config.json").write_text(json.dumps({"model_type": "no-such-canary", "auto_map": names}))
    with pytest.raises(SpecError, match="transformers cannot use"):
        hf_config(str(folder))


def test_says_what_is_wrong(tmp_path):
    with pytest.raises(SpecError, match="no pooling called 'middle_pooler'"):
        HFTextTower(TextConfig(hf_model_name="roberta-base", hf_pooler_type="middle_pooler"), 12)
    with pytest.raises(MissingError, match=r"no config\.json"):
        hf_config(str(tmp_path))
    with pytest.raises(UnavailableError, match="could not be fetched"):
        hf_config("nobody/has-made-this")
    bad = tmp_path / "bad"
    bad.mkdir()
    bad.joinpath("config.json").write_text('{"model_type": "no-such-thing"}')
    with pytest.raises(SpecError, match="transformers cannot use"):
        hf_config(str(bad))


def test_says_that_transformers_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SpecError, match="transformers is not installed") as caught:
        create_model("roberta-ViT-B-32", device="meta")
    assert "clipctl[hf]" in caught.value.hint


def test_a_ready_made_architecture_needs_no_name():
    import transformers

    shape = dict(tinymodels.HF["bert"])
    config = transformers.AutoConfig.for_model(shape.pop("model_type"), **shape)
    tower = HFTextTower(TextConfig(), 12, architecture=config).eval()
    assert tower(tinymodels.texts()).shape == (3, 12)


def test_intermediates(make):
    tower = make("roberta").eval()
    text = tinymodels.texts(pad=1)
    out = tower.forward_intermediates(text)
    assert [tuple(item.shape) for item in out["text_intermediates"]] == [(3, 10, 24)] * 3
    torch.testing.assert_close(out["text_features"], tower(text))
    last = tower.forward_intermediates(text, indices=1, intermediates_only=True)
    assert list(last) == ["text_intermediates"]
    torch.testing.assert_close(last["text_intermediates"][0], out["text_intermediates"][2])
    states, _ = tower._encode(text)
    torch.testing.assert_close(out["text_intermediates"][2], states.last_hidden_state)
    with pytest.raises(ValueError, match="NLC only"):
        tower.forward_intermediates(text, output_fmt="NCHW")


def test_tokens_beside_the_feature(make):
    text = tinymodels.texts(pad=1)
    features, tokens = make(output_tokens=True).eval()(text)
    assert features.shape == (3, 12)
    assert tokens.shape == (3, 10, 24)
    _, tokens = make(output_tokens=True, hf_pooler_type="cls_pooler").eval()(text)
    assert tokens.shape == (3, 9, 24)


@pytest.mark.parametrize("kind", ["roberta", "mt5", "m2m_100", "bert"])
def test_locks_from_the_input_on(make, kind):
    layers = 2 if kind == "bert" else 3
    counts = []
    for unlocked in range(layers + 3):
        tower = make(kind)
        tower.lock(unlocked)
        counts.append(len(tinymodels.trainable(tower)))
        assert {"proj.0.weight", "proj.2.weight"} <= tinymodels.trainable(tower)
    assert counts[0] == 2
    assert counts == sorted(counts)
    assert counts[layers + 1] == counts[-1] == len(list(make(kind).parameters()))


@pytest.mark.parametrize("kind", ["roberta", "mt5", "m2m_100"])
def test_layer_norms_can_stay_trainable(make, kind):
    tower = make(kind)
    tower.lock(0, freeze_layer_norm=False)
    norms = {
        f"{name}.{own}"
        for name, module in tower.named_modules()
        if "norm" in type(module).__name__.lower()
        for own, _ in module.named_parameters(recurse=False)
    }
    assert norms
    assert tinymodels.trainable(tower) == norms | {"proj.0.weight", "proj.2.weight"}


def test_an_architecture_whose_layers_are_hidden_can_only_be_locked_as_a_whole(make):
    tower = make("distilbert")
    tower.lock()
    assert tinymodels.trainable(tower) == {"proj.0.weight", "proj.2.weight"}
    with pytest.raises(SpecError, match="layers of a distilbert model cannot be told apart"):
        tower.lock(1)


def test_layer_groups_cover_the_tower_once(make):
    for kind in ("roberta", "mt5", "m2m_100"):
        tower = make(kind)
        groups = tower.layer_groups()
        parameters = [id(parameter) for group in groups for parameter in group.parameters()]
        assert sorted(parameters) == sorted(id(parameter) for parameter in tower.parameters())
        assert [group.name for group in groups] == ["embeddings", "layer.0", "layer.1", "layer.2", "proj"]


def test_nothing_is_excepted_from_weight_decay(make):
    assert make().no_weight_decay() == set()

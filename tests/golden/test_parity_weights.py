"""Loading is the oracle's: every layout and size into the same modules gives the same numbers.

Targets are the oracle's own modules, so that only the loading is compared; our modules have tests of their own.
"""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from clip_testkit.model_parity import filled
from clip_trainer.weights.big_vision import read_big_vision
from clip_trainer.weights.load import load_file
from clip_trainer.weights.openai import infer_config
from clip_trainer.weights.read import read_weights

pytestmark = pytest.mark.parity

TEXT = {"context_length": 12, "vocab_size": 64, "width": 64, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "patch_size": None}
CONFIGS = {
    "vit": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT},
    "resnet": {"embed_dim": 32, "vision_cfg": RESNET, "text_cfg": TEXT},
    "custom_text": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT, "custom_text": True},
    "siglip_bias": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT, "init_logit_bias": -10.0},
    "coca": {
        "embed_dim": 32,
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
        "custom_text": True,
    },
}


@pytest.fixture(scope="module")
def make(open_clip, tmp_path_factory):
    """Make the oracle's model of a configuration, with random weights."""
    folder = tmp_path_factory.mktemp("configs")

    def build(name, seed=0, **changes):
        config = json.loads(json.dumps(CONFIGS[name]))
        for section, values in changes.items():
            if isinstance(values, dict):
                config[section] |= values
            else:
                config[section] = values
        known = f"tiny-{abs(hash(json.dumps(config)))}"
        (folder / f"{known}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{known}.json")
        torch.manual_seed(seed)
        model = filled(open_clip.create_model(known))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model

    return build


def same(ours, theirs, tolerance=0.0):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}")


def both(open_clip, make, name, path, **changes):
    """Load a file twice into the same architecture: by us and by the oracle."""
    ours, theirs = make(name, seed=1, **changes), make(name, seed=2, **changes)
    load_file(ours, path)
    open_clip.load_checkpoint(theirs, str(path))
    return ours, theirs


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("form", ["pt", "safetensors", "module", "training"])
def test_every_class_in_every_form(open_clip, make, tmp_path, name, form):
    source = make(name)
    state = source.state_dict()
    path = tmp_path / f"w.{'safetensors' if form == 'safetensors' else 'pt'}"
    prefixed = {f"module.{key}": value for key, value in state.items()}
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"pt": state, "module": prefixed, "training": {"epoch": 1, "state_dict": prefixed}}[form], path)
    ours, theirs = both(open_clip, make, name, path)
    same(ours, theirs)
    same(ours, source)


@pytest.mark.parametrize("size", [16, 48, 224, (32, 64)])
def test_image_sizes(open_clip, make, tmp_path, size):
    torch.save(make("vit").state_dict(), tmp_path / "w.pt")
    same(*both(open_clip, make, "vit", tmp_path / "w.pt", vision_cfg={"image_size": size}), tolerance=1e-6)


@pytest.mark.parametrize("name", ["vit", "custom_text"])
@pytest.mark.parametrize("context", [5, 32, 77])
def test_context_lengths(open_clip, make, tmp_path, name, context):
    torch.save(make(name).state_dict(), tmp_path / "w.pt")
    same(*both(open_clip, make, name, tmp_path / "w.pt", text_cfg={"context_length": context}), tolerance=1e-6)


def test_clip_into_custom_text(open_clip, make, tmp_path):
    torch.save(make("vit").state_dict(), tmp_path / "w.pt")
    same(*both(open_clip, make, "custom_text", tmp_path / "w.pt"))


def test_custom_text_into_clip_which_the_oracle_refuses(open_clip, make, tmp_path):
    source = make("custom_text")
    torch.save(source.state_dict(), tmp_path / "w.pt")
    ours = make("vit", seed=1)
    load_file(ours, tmp_path / "w.pt")
    assert torch.equal(ours.positional_embedding, source.text.positional_embedding)
    with pytest.raises((RuntimeError, AttributeError)):
        open_clip.load_checkpoint(make("vit", seed=2), str(tmp_path / "w.pt"))


def test_clip_into_a_model_with_a_bias(open_clip, make, tmp_path):
    torch.save(make("vit").state_dict(), tmp_path / "w.pt")
    ours, theirs = both(open_clip, make, "siglip_bias", tmp_path / "w.pt")
    same(ours, theirs)
    assert ours.logit_bias.item() == 0


@pytest.mark.parametrize("name", ["vit", "custom_text", "siglip_bias"])
@pytest.mark.parametrize("flip", [True, False])
def test_logit_scales_of_either_shape(open_clip, make, tmp_path, name, flip):
    torch.save(make(name, nonscalar_logit_scale=flip).state_dict(), tmp_path / "w.pt")
    same(*both(open_clip, make, name, tmp_path / "w.pt", nonscalar_logit_scale=not flip))


def test_resnet_positions_are_resized_here_only(open_clip, make, tmp_path):
    source = make("resnet")
    torch.save(source.state_dict(), tmp_path / "w.pt")
    larger = {"vision_cfg": {"image_size": 96}}
    ours = make("resnet", seed=1, **larger)
    load_file(ours, tmp_path / "w.pt")
    positions = ours.visual.attnpool.positional_embedding
    assert positions.shape[0] == 3 * 3 + 1
    assert torch.equal(positions[0], source.visual.attnpool.positional_embedding[0])
    with pytest.raises(RuntimeError, match="attnpool"):
        open_clip.load_checkpoint(make("resnet", seed=2, **larger), str(tmp_path / "w.pt"))


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_openai_configurations_are_inferred_alike(open_clip, make, name):
    from open_clip.model import build_model_from_openai_state_dict

    changes = {"text_cfg": {"heads": 1}, "vision_cfg": {"head_width": 64}}
    state = make(name, **changes).state_dict()
    theirs = build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32)
    ours = infer_config(state)
    vision, text = ours["vision_cfg"], ours["text_cfg"]
    sizes = lambda image: image if isinstance(image, tuple) else (image, image)  # noqa: E731
    assert sizes(theirs.visual.image_size) == sizes(vision["image_size"])
    assert (theirs.context_length, theirs.vocab_size) == (text["context_length"], text["vocab_size"])
    assert len(theirs.transformer.resblocks) == text["layers"]
    assert theirs.transformer.resblocks[0].attn.num_heads == text["heads"]
    assert theirs.text_projection.shape[1] == ours["embed_dim"]
    if name == "vit":
        assert len(theirs.visual.transformer.resblocks) == vision["layers"]
        assert theirs.visual.transformer.resblocks[0].attn.num_heads == vision["width"] // 64


def test_an_openai_archive_gives_the_oracles_weights(open_clip, make, tmp_path):
    """The oracle loads TorchScript with torch.jit, in a function of its own; only there, and by running the archive."""
    import warnings

    from open_clip.openai import load_openai_model

    changes = {"text_cfg": {"heads": 1}, "vision_cfg": {"head_width": 64}}
    model = make("vit", **changes).eval()
    mask = model._buffers.pop("attn_mask")  # OpenAI's archives have it as a constant
    model.attn_mask = mask.half()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.randn(2, 3, 32, 32).half(), torch.zeros(2, 12, dtype=torch.int64)
        torch.jit.save(torch.jit.trace(model.half(), example), tmp_path / "ViT.pt")
        theirs = load_openai_model(str(tmp_path / "ViT.pt"), precision="fp32", device="cpu")
    ours = read_weights(tmp_path / "ViT.pt")
    expected = theirs.state_dict()
    assert ours.state_dict.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict.items())


def test_a_traced_model_of_the_oracle_loads(open_clip, make, tmp_path):
    """It keeps its attention mask among the weights, which the oracle itself cannot load."""
    import warnings

    model = make("vit").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.randn(2, 3, 32, 32), torch.zeros(2, 12, dtype=torch.int64)
        torch.jit.save(torch.jit.trace(model, example, check_trace=False), tmp_path / "traced.pt")
    assert "attn_mask" in read_weights(tmp_path / "traced.pt").state_dict
    ours = make("vit", seed=1)
    load_file(ours, tmp_path / "traced.pt")
    same(ours, model)


class SigLip(torch.nn.Module):
    """What the oracle's importer of big_vision writes into: a timm ViT below `visual.trunk`, its text tower."""

    def __init__(self, text):
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.visual = torch.nn.Module()
        self.visual.trunk = VisionTransformer(
            img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, class_token=False, global_pool="map",
            num_classes=0,
        )  # fmt: skip
        self.text = text
        self.logit_scale = torch.nn.Parameter(torch.zeros(()))
        self.logit_bias = torch.nn.Parameter(torch.zeros(()))


def big_vision_arrays(stacked, width=32, heads=2, layers=2, hidden=128, vocab=50, context=8):
    draw = np.random.default_rng(0)
    arrays = {}

    def put(name, *shape):
        arrays[f"params/{name}"] = draw.standard_normal(shape, dtype=np.float32)

    def norm(name, *lead):
        put(f"{name}/scale", *lead, width)
        put(f"{name}/bias", *lead, width)

    def block(name, *lead):
        attention(f"{name}/MultiHeadDotProductAttention_0", *lead)
        for part, shape in (("Dense_0", (width, hidden)), ("Dense_1", (hidden, width))):
            put(f"{name}/MlpBlock_0/{part}/kernel", *lead, *shape)
            put(f"{name}/MlpBlock_0/{part}/bias", *lead, shape[1])

    def attention(name, *lead):
        for part in ("query", "key", "value"):
            put(f"{name}/{part}/kernel", *lead, width, heads, width // heads)
            put(f"{name}/{part}/bias", *lead, heads, width // heads)
        put(f"{name}/out/kernel", *lead, heads, width // heads, width)
        put(f"{name}/out/bias", *lead, width)

    for tower in ("img/Transformer", "txt/Encoder_0"):
        for name, lead in [("", (layers,))] if stacked else [(f"_{i}", ()) for i in range(layers)]:
            block(f"{tower}/encoderblock{name}", *lead)
            norm(f"{tower}/encoderblock{name}/LayerNorm_0", *lead)
            norm(f"{tower}/encoderblock{name}/LayerNorm_1", *lead)
        norm(f"{tower}/encoder_norm")
    put("img/embedding/kernel", 16, 16, 3, width)
    put("img/embedding/bias", width)
    put("img/pos_embedding", 1, 4, width)
    put("img/MAPHead_0/probe", 1, 1, width)
    block("img/MAPHead_0")
    norm("img/MAPHead_0/LayerNorm_0")
    put("txt/Embed_0/embedding", vocab, width)
    put("txt/pos_embedding", 1, context, width)
    put("txt/head/kernel", width, width)
    put("txt/head/bias", width)
    put("b", 1)
    put("t", 1)
    return arrays


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("root", [True, False])
def test_big_vision(open_clip, tmp_path, stacked, root):
    from open_clip.convert import load_big_vision_weights
    from open_clip.transformer import TextTransformer

    arrays = big_vision_arrays(stacked)
    if not root:
        arrays = {key.removeprefix("params/"): value for key, value in arrays.items()}
    np.savez(tmp_path / "w.npz", **arrays)
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2, "output_dim": 32}
    ours, theirs = (SigLip(TextTransformer(**text, proj_bias=True, pool_type="last")) for _ in range(2))
    load_big_vision_weights(theirs, str(tmp_path / "w.npz"))
    load_file(ours, tmp_path / "w.npz")
    same(ours, theirs)
    assert len(read_big_vision(tmp_path / "w.npz")) == len(theirs.state_dict())


def mobileclip_state(theirs):
    """A state dict with Apple's names for the text tower, made from the oracle's."""
    names = [
        ("text.text_projection", "projection_layer"),
        ("token_embedding", "embedding_layer"),
        ("ln_final", "final_layer_norm"),
        ("ln_1", "pre_norm_mha.0"),
        ("attn.in_proj_", "pre_norm_mha.1.qkv_proj."),
        ("attn.", "pre_norm_mha.1."),
        ("ln_2", "pre_norm_ffn.0"),
        ("mlp.c_fc", "pre_norm_ffn.1"),
        ("mlp.c_proj", "pre_norm_ffn.4"),
        ("transformer.resblocks.", "transformer."),
        ("text.", ""),
    ]
    state = {}
    for key, value in theirs.items():
        if key.startswith("text."):
            for ours, apple in names:
                key = key.replace(ours, apple)
            if key == "positional_embedding":
                key, value = "positional_embedding.pos_embed.pos_embed", value[None, None]
            state[f"text_encoder.{key}"] = value
    return state


def test_mobileclip_text_towers(open_clip, make, monkeypatch):
    from open_clip.convert import convert_mobile_clip_state_dict

    from clip_trainer.weights.mobileclip import from_mobileclip, is_mobileclip

    model = make("custom_text")
    model.visual.trunk = torch.nn.Linear(2, 2)
    state = mobileclip_state(model.state_dict())
    state["image_encoder.model.patch_embed.0.rbr_conv.0.conv.weight"] = torch.randn(3)
    state["logit_scale"] = torch.tensor(1.5)
    # The image towers are timm's in both, and so is the translation of their names.
    monkeypatch.setattr("timm.models.fastvit.checkpoint_filter_fn", lambda state, trunk: {"weight": torch.ones(2, 2)})
    ours, theirs = from_mobileclip(state, model), convert_mobile_clip_state_dict(model, state)
    assert is_mobileclip(state)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert {key for key in ours if key.startswith("text.")} == {
        key for key in model.state_dict() if key.startswith("text.")
    }

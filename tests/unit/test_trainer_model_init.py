"""Initial weights: OpenCLIP's distributions, named by seed and parameter."""

import math

import pytest
import torch
from torch import nn

from clip_trainer.model import ClipConfig, create_model, get_config
from clip_trainer.model.init import filled_modules, init_parameters
from clip_trainer.model.init_streams import Streams


@pytest.fixture(scope="module")
def net():
    return create_model("ViT-tiny-8-32", seed=5)


def test_the_seed_decides_every_weight(net):
    again, other = create_model("ViT-tiny-8-32", seed=5), create_model("ViT-tiny-8-32", seed=6)
    for (name, a), b, c in zip(
        net.state_dict().items(), again.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
        constant = name.endswith((".bias", "_bias")) or ".ln_" in name or "ln_" in name or name == "logit_scale"
        assert constant or not torch.equal(a, c), name


def test_global_randomness_is_neither_used_nor_moved(net):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    again = create_model("ViT-tiny-8-32", seed=5)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(again.visual.proj, net.visual.proj)


def test_blocks_do_not_share_their_weights(net):
    first, second = net.transformer.resblocks[0], net.transformer.resblocks[1]
    assert not torch.equal(first.mlp.c_fc.weight, second.mlp.c_fc.weight)
    assert not torch.equal(first.attn.in_proj_weight, net.visual.transformer.resblocks[0].attn.in_proj_weight)


def expected_std(name):
    """Standard deviation of each tensor by OpenCLIP's rules, from the sizes of the model."""
    config = get_config("ViT-tiny-8-32")
    text, vision = config.text, config.vision
    residual = text.width**-0.5 * (2 * text.layers) ** -0.5
    table = {
        "token_embedding.weight": 0.02,
        "positional_embedding": 0.01,
        "text_projection": text.width**-0.5,
        "transformer.resblocks.0.attn.in_proj_weight": text.width**-0.5,
        "transformer.resblocks.1.attn.out_proj.weight": residual,
        "transformer.resblocks.2.mlp.c_fc.weight": (2 * text.width) ** -0.5,
        "transformer.resblocks.0.mlp.c_proj.weight": residual,
        "visual.positional_embedding": vision.width**-0.5,
        "visual.proj": vision.width**-0.5,
        # A uniform distribution within +-b has standard deviation b / sqrt(3).
        "visual.conv1.weight": (3 * vision.patch_size**2) ** -0.5 / math.sqrt(3),
        "visual.transformer.resblocks.0.attn.in_proj_weight": math.sqrt(6 / (4 * vision.width)) / math.sqrt(3),
        "visual.transformer.resblocks.0.attn.out_proj.weight": vision.width**-0.5 / math.sqrt(3),
        "visual.transformer.resblocks.3.mlp.c_fc.weight": vision.width**-0.5 / math.sqrt(3),
        "visual.transformer.resblocks.3.mlp.c_fc.bias": vision.width**-0.5 / math.sqrt(3),
        "visual.transformer.resblocks.3.mlp.c_proj.weight": (4 * vision.width) ** -0.5 / math.sqrt(3),
        "transformer.resblocks.0.mlp.c_fc.bias": text.width**-0.5 / math.sqrt(3),
    }
    return table[name]


@pytest.mark.parametrize(
    "name",
    [
        "token_embedding.weight",
        "positional_embedding",
        "text_projection",
        "transformer.resblocks.0.attn.in_proj_weight",
        "transformer.resblocks.1.attn.out_proj.weight",
        "transformer.resblocks.2.mlp.c_fc.weight",
        "transformer.resblocks.0.mlp.c_proj.weight",
        "visual.positional_embedding",
        "visual.proj",
        "visual.conv1.weight",
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        "visual.transformer.resblocks.0.attn.out_proj.weight",
        "visual.transformer.resblocks.3.mlp.c_fc.weight",
        "visual.transformer.resblocks.3.mlp.c_fc.bias",
        "visual.transformer.resblocks.3.mlp.c_proj.weight",
        "transformer.resblocks.0.mlp.c_fc.bias",
    ],
)
def test_spread(net, name):
    tensor = net.state_dict()[name].double()
    # Four standard errors of the estimate (bounded below for the large tensors).
    tolerance = max(4 / math.sqrt(2 * tensor.numel()), 0.01)
    assert tensor.std().item() == pytest.approx(expected_std(name), rel=tolerance)
    assert abs(tensor.mean().item()) < 5 * expected_std(name) / math.sqrt(tensor.numel())


def test_constants(net):
    state = net.state_dict()
    assert state["logit_scale"].item() == pytest.approx(math.log(1 / 0.07))
    for name, tensor in state.items():
        if name.endswith(("in_proj_bias", "out_proj.bias")):
            assert tensor.abs().max() == 0, name
        if ".ln_" in name or name.startswith("ln_"):
            assert torch.all(tensor == (1.0 if name.endswith("weight") else 0.0)), name


OPTIONS = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 16,
        "patch_size": 8,
        "width": 64,
        "layers": 2,
        "head_width": 16,
        "ls_init_value": 0.25,
        "qk_norm": True,
        "scale_heads": True,
        "attentional_pool": True,
        "attn_pooler_queries": 32,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 64,
        "width": 48,
        "heads": 4,
        "layers": 2,
        "embed_cls": True,
        "proj_bias": True,
        "scaled_cosine_attn": True,
    },
    "custom_text": True,
    "init_logit_scale": 2.5,
    "init_logit_bias": -10.0,
}


@pytest.fixture(scope="module")
def options():
    return create_model(ClipConfig.from_dict(OPTIONS, "options"), seed=5).state_dict()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_scale", 2.5),
        ("logit_bias", -10.0),
        ("visual.transformer.resblocks.0.ls_1.gamma", 0.25),
        ("visual.transformer.resblocks.1.ls_2.gamma", 0.25),
        ("visual.transformer.resblocks.1.attn.ln_q.weight", 1.0),
        ("visual.transformer.resblocks.1.attn.head_scale", 1.0),
        ("visual.transformer.resblocks.1.attn.in_proj_bias", 0.0),
        ("visual.attn_pool.attn.in_proj_bias", 0.0),
        ("visual.attn_pool.attn.out_proj.bias", 0.0),
        ("text.transformer.resblocks.1.attn.logit_scale", math.log(10)),
        ("text.text_projection.bias", 0.0),
    ],
)
def test_constants_of_optional_parts(options, name, value):
    assert torch.all(options[name] == torch.tensor(value)), name


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("visual.transformer.resblocks.0.attn.in_proj_weight", 16**-0.5),
        ("visual.transformer.resblocks.0.attn.out_proj.bias", 64**-0.5 / math.sqrt(3)),
        ("visual.attn_pool.query", 1.0),
        ("visual.attn_pool.attn.in_proj_weight", math.sqrt(6 / (4 * 64)) / math.sqrt(3)),
        ("text.transformer.resblocks.0.attn.in_proj_weight", 48**-0.5),
        ("text.text_projection.weight", 48**-0.5),
        ("text.cls_emb", 0.01),
    ],
)
def test_spread_of_optional_parts(options, name, std):
    tensor = options[name].double()
    assert tensor.std().item() == pytest.approx(std, rel=max(4 / math.sqrt(2 * tensor.numel()), 0.01))


def test_a_separate_text_tower_has_streams_of_its_own_names():
    base = {**OPTIONS, "text_cfg": {**OPTIONS["text_cfg"], "embed_cls": False}, "init_logit_bias": None}
    plain = create_model(ClipConfig.from_dict({**base, "custom_text": False}, "plain"), seed=5).state_dict()
    custom = create_model(ClipConfig.from_dict(base, "custom"), seed=5).state_dict()
    assert torch.equal(plain["visual.proj"], custom["visual.proj"])
    assert not torch.equal(plain["token_embedding.weight"], custom["text.token_embedding.weight"])


def test_seeds_may_be_any_integer():
    keys = {Streams(seed).key(name) for seed in (-1, 0, 1, 2**70) for name in ("a", "b")}
    assert len(keys) == 8
    assert all(0 <= key < 2**63 for key in keys)
    streams = Streams(-5)
    first, second = torch.zeros(4), torch.zeros(4)
    streams.normal(first, 1.0, "x")
    streams.normal(second, 1.0, "x")
    assert torch.equal(first, second)
    meta = torch.zeros(3, device="meta")
    streams.normal(meta, 1.0, "x")
    streams.fill(meta, 2.0)


def test_modules_that_are_filled_already_stay():
    with torch.device("meta"):
        net = nn.ModuleDict({"mine": nn.Linear(2, 2), "theirs": nn.Linear(2, 2)})
    net["theirs"] = nn.Linear(2, 2, device="cpu")
    before = net["theirs"].weight.clone()
    ready = filled_modules(net)
    assert ready == {id(net["theirs"])}
    net["mine"] = nn.Linear(2, 2, device="cpu")
    init_parameters(net, 0, ready)
    assert torch.equal(net["theirs"].weight, before)
    again = net["mine"].weight.clone()
    init_parameters(net, 0, ready)
    assert torch.equal(net["mine"].weight, again)

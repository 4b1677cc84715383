"""Initial weights: OpenCLIP's distributions, named by seed and parameter."""

import math

import pytest
import torch

from clip_trainer.model import create_model, get_config


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

"""How deep a parameter lies, by its name, in every kind of tower."""

import math

import pytest

from clip_trainer.optim.layers import layer_scales

NATIVE = [
    "positional_embedding",
    "text_projection",
    "logit_scale",
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.proj",
    "visual.conv1.weight",
    "visual.ln_pre.weight",
    "visual.transformer.resblocks.0.attn.in_proj_weight",
    "visual.transformer.resblocks.0.mlp.c_proj.bias",
    "visual.transformer.resblocks.1.ln_1.weight",
    "visual.ln_post.weight",
    "transformer.resblocks.0.attn.out_proj.weight",
    "transformer.resblocks.1.ls_1.gamma",
    "transformer.resblocks.2.mlp.c_fc.weight",
    "token_embedding.weight",
    "ln_final.bias",
]


def depths(names, tower="visual."):
    """Layers below the head of the parameters of one tower."""
    image = tower == "visual."
    scales = layer_scales(names, 0.5 if image else 1.0, 1.0 if image else 0.5)
    return {name: round(-math.log2(scales[name])) for name in names if name.startswith("visual.") is image}


def test_the_image_tower():
    assert depths(NATIVE) == {
        "visual.class_embedding": 3,
        "visual.positional_embedding": 3,
        "visual.conv1.weight": 3,
        "visual.ln_pre.weight": 3,
        "visual.transformer.resblocks.0.attn.in_proj_weight": 2,
        "visual.transformer.resblocks.0.mlp.c_proj.bias": 2,
        "visual.transformer.resblocks.1.ln_1.weight": 1,
        "visual.ln_post.weight": 0,
        "visual.proj": 0,
    }


def test_the_text_tower():
    assert depths(NATIVE, "text") == {
        "positional_embedding": 4,
        "token_embedding.weight": 4,
        "transformer.resblocks.0.attn.out_proj.weight": 3,
        "transformer.resblocks.1.ls_1.gamma": 2,
        "transformer.resblocks.2.mlp.c_fc.weight": 1,
        "ln_final.bias": 0,
        "text_projection": 0,
        "logit_scale": 0,
    }


def test_each_tower_has_its_own_factor_and_what_joins_them_has_none():
    scales = layer_scales([*NATIVE, "logit_bias"], 0.9, 0.5)
    assert scales["visual.conv1.weight"] == 0.9**3
    assert scales["token_embedding.weight"] == 0.5**4
    assert (scales["logit_scale"], scales["logit_bias"], scales["visual.proj"]) == (1.0, 1.0, 1.0)
    assert set(layer_scales(NATIVE, 1.0, 1.0).values()) == {1.0}


@pytest.mark.parametrize(
    "expected",
    [
        {  # ModifiedResNet: each residual block is a layer, over all stages
            "visual.conv1.weight": 4,
            "visual.bn3.bias": 4,
            "visual.layer1.0.conv1.weight": 3,
            "visual.layer1.0.downsample.0.weight": 3,
            "visual.layer1.1.bn1.weight": 2,
            "visual.layer4.0.conv2.weight": 1,
            "visual.attnpool.q_proj.weight": 0,
        },
        {  # timm's vision transformer: the projection of the patches is no head
            "visual.trunk.pos_embed": 3,
            "visual.trunk.patch_embed.proj.weight": 3,
            "visual.trunk.blocks.0.norm1.weight": 2,
            "visual.trunk.blocks.11.mlp.fc1.weight": 1,
            "visual.trunk.norm.weight": 0,
            "visual.trunk.attn_pool.latent": 0,
            "visual.trunk.fc_norm.weight": 0,
            "visual.head.proj.weight": 0,
        },
        {  # timm's ConvNeXt: a downsampling is a layer of its own
            "visual.trunk.stem.0.weight": 5,
            "visual.trunk.stages.0.blocks.0.gamma": 4,
            "visual.trunk.stages.0.blocks.1.gamma": 3,
            "visual.trunk.stages.1.downsample.0.weight": 2,
            "visual.trunk.stages.1.blocks.0.gamma": 1,
            "visual.trunk.head.norm.weight": 0,
            "visual.head.mlp.fc1.weight": 0,
        },
        {  # timm's Swin
            "visual.trunk.patch_embed.norm.weight": 3,
            "visual.trunk.layers.0.blocks.0.attn.qkv.weight": 2,
            "visual.trunk.layers.1.blocks.0.attn.qkv.weight": 1,
            "visual.trunk.norm.bias": 0,
        },
    ],
)
def test_other_image_towers(expected):
    assert depths(list(expected)) == expected


@pytest.mark.parametrize(
    "expected",
    [
        {  # CustomTextCLIP and CoCa
            "text.token_embedding.weight": 2,
            "text.cls_emb": 2,
            "text.transformer.resblocks.0.ln_1.weight": 1,
            "text.ln_final.weight": 0,
            "text.text_projection": 0,
            "text_decoder.resblocks.0.ln_1.weight": 0,
            "text_decoder.text_projection": 0,
        },
        {  # RoBERTa
            "text.transformer.embeddings.LayerNorm.weight": 3,
            "text.transformer.encoder.layer.0.attention.self.query.weight": 2,
            "text.transformer.encoder.layer.1.output.dense.bias": 1,
            "text.transformer.pooler.dense.weight": 0,
            "text.proj.0.weight": 0,
        },
        {  # mT5: sub-layers of a block belong to the block
            "text.transformer.shared.weight": 3,
            "text.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": 2,
            "text.transformer.encoder.block.0.layer.1.DenseReluDense.wo.weight": 2,
            "text.transformer.encoder.block.1.layer.0.layer_norm.weight": 1,
            "text.transformer.encoder.final_layer_norm.weight": 0,
        },
    ],
)
def test_other_text_towers(expected):
    assert depths(list(expected), "text") == expected

"""Which parameters decay."""

import pytest
import torch
from torch import nn

from clip_trainer.model import create_model
from clip_trainer.optim import AdamWConfig, GroupRules, adamw_defaults, build_adamw, parameter_groups
from clipctl.contract.errors import SpecError
from clipctl.contract.sections import ParameterGroupSection


@pytest.fixture(scope="module")
def model():
    return create_model("ViT-B-32", device="meta")


def test_every_parameter_is_in_one_group_under_its_name(model):
    undecayed, decayed = parameter_groups(model, GroupRules(0.2))
    names = [*undecayed["names"], *decayed["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    by_name = dict(model.named_parameters())
    for group in (undecayed, decayed):
        assert all(by_name[name] is p for name, p in zip(group["names"], group["params"], strict=True))


def test_the_counts_are_openclips(model):
    undecayed, decayed = parameter_groups(model, GroupRules(0.2))
    assert (len(undecayed["params"]), len(decayed["params"])) == (200, 102)
    assert (undecayed["weight_decay"], decayed["weight_decay"]) == (0.0, 0.2)


@pytest.mark.parametrize(
    ("name", "decays"),
    [
        ("logit_scale", False),
        ("ln_final.weight", False),
        ("visual.class_embedding", False),
        ("visual.conv1.weight", True),
        ("token_embedding.weight", True),
        ("positional_embedding", True),
        ("transformer.resblocks.0.attn.in_proj_weight", True),
        ("transformer.resblocks.0.attn.in_proj_bias", False),
        ("transformer.resblocks.3.mlp.c_fc.bias", False),
    ],
)
def test_named_examples(model, name, decays):
    undecayed, decayed = parameter_groups(model, GroupRules(0.2))
    assert (name in decayed["names"]) is decays
    assert (name in undecayed["names"]) is not decays


def test_frozen_parameters_are_left_out():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    assert [group["names"] for group in parameter_groups(layer, GroupRules(0.1))] == [["bias"], []]


def test_adamw_has_the_configuration_it_was_given():
    optimizer = build_adamw(nn.Linear(2, 3), AdamWConfig(1e-3, 0.8, 0.9, 1e-7, 0.3))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.3]
    assert [group["names"] for group in optimizer.param_groups] == [["bias"], ["weight"]]
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.8, 0.9), 1e-7)
        assert group["fused"]


def test_fused_and_plain_adamw_step_alike():
    torch.manual_seed(0)
    fused_model, plain_model = nn.Linear(4, 4, dtype=torch.float64), nn.Linear(4, 4, dtype=torch.float64)
    plain_model.load_state_dict(fused_model.state_dict())
    fused = build_adamw(fused_model, AdamWConfig(1e-2))
    plain = torch.optim.AdamW(
        [dict(group) for group in parameter_groups(plain_model, GroupRules(0.2))],
        lr=1e-2,
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=False,
    )
    for step in range(5):
        for model, optimizer in ((fused_model, fused), (plain_model, plain)):
            optimizer.zero_grad()
            model(torch.full((2, 4), step + 1.0, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(fused_model.weight, plain_model.weight, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "beta2", "eps"), [("ViT-B-32", 0.98, 1e-6), ("roberta-ViT-B-32", 0.98, 1e-6), ("RN50", 0.999, 1e-8)]
)
def test_defaults_follow_the_model_name(name, beta2, eps):
    config = adamw_defaults(name, 5e-4)
    assert (config.lr, config.beta1, config.beta2, config.eps, config.weight_decay) == (5e-4, 0.9, beta2, eps, 0.2)


def by_name(model, rules):
    """(weight decay, learning-rate factor) of every parameter."""
    return {
        name: (group["weight_decay"], group["lr_scale"])
        for group in parameter_groups(model, rules)
        for name in group["names"]
    }


def test_patterns_take_parameters_out_of_the_decay(model):
    plain, fewer = by_name(model, GroupRules(0.2)), by_name(model, GroupRules(0.2, no_decay=("*embedding*",)))
    changed = {name for name in plain if plain[name] != fewer[name]}
    assert changed == {"positional_embedding", "token_embedding.weight", "visual.positional_embedding"}
    assert all(fewer[name] == (0.0, 1.0) for name in changed)


def test_the_first_special_group_that_matches_counts(model):
    special = (
        ParameterGroupSection(match="visual.conv1.*", learning_rate_scale=0.0, weight_decay=0.5),
        ParameterGroupSection(match="visual.*", learning_rate_scale=0.1),
    )
    found = by_name(model, GroupRules(0.2, special=special))
    assert found["visual.conv1.weight"] == (0.5, 0.0)
    assert found["visual.proj"] == (0.2, 0.1)
    assert found["visual.ln_pre.weight"] == (0.0, 0.1)
    assert found["text_projection"] == (0.2, 1.0)


def test_a_special_decay_is_for_what_decays(model):
    found = by_name(model, GroupRules(0.2, special=(ParameterGroupSection(match="*", weight_decay=0.7),)))
    assert set(found.values()) == {(0.7, 1.0), (0.0, 1.0)}
    assert found["logit_scale"] == (0.0, 1.0)


def test_everything_at_once_multiplies(model):
    special = (ParameterGroupSection(match="visual.*", learning_rate_scale=0.5, weight_decay=0.3),)
    rules = GroupRules(0.2, "openclip", ("*.mlp.*",), image_layer_decay=0.5, text_layer_decay=0.25, special=special)
    found = by_name(model, rules)
    assert found["visual.proj"] == (0.3, 0.5)
    assert found["visual.transformer.resblocks.11.attn.out_proj.weight"] == (0.3, 0.25)
    assert found["visual.transformer.resblocks.11.mlp.c_fc.weight"] == (0.0, 0.25)
    assert found["transformer.resblocks.10.attn.out_proj.weight"] == (0.2, 0.0625)
    assert found["logit_scale"] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        (GroupRules(0.2, no_decay=("*.embeding",)), "train.no_decay: '*.embeding'"),
        (GroupRules(0.2, special=(ParameterGroupSection(match="vision.*"),)), "train.parameter_groups: 'vision.*'"),
    ],
)
def test_a_pattern_without_a_match_is_the_users_mistake(model, rules, field):
    with pytest.raises(SpecError) as caught:
        parameter_groups(model, rules)
    assert field in caught.value.problem
    assert "Names look like" in caught.value.hint
    assert "visual.transformer." in caught.value.hint


def test_frozen_parameters_may_be_all_a_pattern_matches():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    (group,) = [g for g in parameter_groups(layer, GroupRules(0.1, no_decay=("bias",))) if g["params"]]
    assert group["names"] == ["weight"]


class Excepting(nn.Module):
    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(1, 4))
        self.bn_matrix = nn.Parameter(torch.zeros(4, 4))
        self.scale = nn.Parameter(torch.zeros(4))

    def no_weight_decay(self):
        return {"class_embedding"}


@pytest.mark.parametrize(("rule", "decayed"), [("openclip", ["class_embedding"]), ("modern", ["bn_matrix"])])
def test_the_two_rules(rule, decayed):
    assert parameter_groups(Excepting(), GroupRules(0.1, rule))[1]["names"] == decayed

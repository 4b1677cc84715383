"""Learning rates and parameter groups equal those of OpenCLIP's training code."""

import pytest
import torch
from torch import nn

from clip_trainer.model import create_model
from clip_trainer.optim import GroupRules, Schedule, learning_rate, parameter_groups

pytestmark = pytest.mark.parity


@pytest.fixture
def oracle_optimizer():
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)


@pytest.mark.parametrize(
    ("lr", "warmup", "total", "cooldown"),
    [(1e-3, 10, 100, 20), (5e-4, 0, 37, 5), (2.0, 50, 60, 10), (1e-4, 7, 1000, 999), (3e-4, 2000, 2500, 100)],
)
@pytest.mark.parametrize("kind", ["cosine", "constant", "constant-cooldown"])
def test_every_step_of_every_schedule(open_clip, oracle_optimizer, kind, lr, warmup, total, cooldown):
    from open_clip_train.scheduler import const_lr, const_lr_cooldown, cosine_lr

    oracle = {
        "cosine": lambda: cosine_lr(oracle_optimizer, lr, warmup, total),
        "constant": lambda: const_lr(oracle_optimizer, lr, warmup, total),
        "constant-cooldown": lambda: const_lr_cooldown(oracle_optimizer, lr, warmup, total, cooldown, 2.0, 1e-5),
    }[kind]()
    schedule = Schedule(kind, lr, warmup, total, cooldown, 1e-5, 2.0)
    for step in range(total):
        oracle(step)
        assert learning_rate(step, schedule) == oracle_optimizer.param_groups[0]["lr"]


def oracle_split(oracle):
    """Names without decay; open_clip_train.main has the rule inline, this is its text."""
    return {
        name
        for name, p in oracle.named_parameters()
        if p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
    }


@pytest.fixture(scope="module")
def oracles(open_clip):
    """OpenCLIP's models on the meta device, by name."""
    made = {}

    def make(name):
        if name not in made:
            with torch.device("meta"):
                made[name] = open_clip.create_model(name, device="meta")
        return made[name]

    return make


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("ViT-B-32", (200, 102)),
        ("RN50", (213, 111)),
        ("ViT-B-16-SigLIP", None),
        ("coca_ViT-B-32", None),
        ("ViT-L-14-CLIPA", None),
    ],
)
def test_the_decay_split_is_the_oracles_rule(oracles, name, counts):
    oracle = oracles(name)
    excluded = oracle_split(oracle)
    undecayed, decayed = parameter_groups(oracle, GroupRules(0.2))
    assert set(undecayed["names"]) == excluded
    assert set(decayed["names"]) == {name for name, _ in oracle.named_parameters()} - excluded
    if counts:
        assert (len(undecayed["names"]), len(decayed["names"])) == counts


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "coca_ViT-B-32"])
def test_timms_optimisers_divide_as_in_the_oracle(oracles, name):
    from timm.optim import create_optimizer_v2

    oracle = oracles(name)
    names = {parameter: name for name, parameter in oracle.named_parameters()}
    theirs = {
        names[parameter]: group["weight_decay"]
        for group in create_optimizer_v2(oracle, "lion", lr=1e-3, weight_decay=0.2).param_groups
        for parameter in group["params"]
    }
    ours = {
        name: group["weight_decay"]
        for group in parameter_groups(oracle, GroupRules(0.2, "modern"))
        for name in group["names"]
    }
    assert ours == theirs


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "coca_ViT-B-32", "ViT-L-14-CLIPA"])
def test_our_models_divide_like_the_oracles(oracles, name):
    model = create_model(name, device="meta")
    assert set(parameter_groups(model, GroupRules(0.2))[0]["names"]) == oracle_split(oracles(name))
    if name == "coca_ViT-B-32":
        return  # OpenCLIP's CoCa forgets to except its position embeddings; ours does not
    modern = [set(group["names"]) for group in parameter_groups(model, GroupRules(0.2, "modern"))]
    assert modern == [set(group["names"]) for group in parameter_groups(oracles(name), GroupRules(0.2, "modern"))]

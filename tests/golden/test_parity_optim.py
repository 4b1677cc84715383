"""Learning rates and parameter groups equal those of OpenCLIP's training code."""

import pytest
import torch
from torch import nn

from clip_trainer.model import create_model
from clip_trainer.optim import Schedule, learning_rate, parameter_groups

pytestmark = pytest.mark.parity


@pytest.fixture
def oracle_optimizer():
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)


@pytest.mark.parametrize(
    ("lr", "warmup", "total", "cooldown"),
    [(1e-3, 10, 100, 20), (5e-4, 0, 37, 5), (2.0, 50, 60, 10), (1e-4, 7, 1000, 999)],
)
@pytest.mark.parametrize("kind", ["cosine", "const", "const-cooldown"])
def test_every_step_of_every_schedule(open_clip, oracle_optimizer, kind, lr, warmup, total, cooldown):
    from open_clip_train.scheduler import const_lr, const_lr_cooldown, cosine_lr

    oracle = {
        "cosine": lambda: cosine_lr(oracle_optimizer, lr, warmup, total),
        "const": lambda: const_lr(oracle_optimizer, lr, warmup, total),
        "const-cooldown": lambda: const_lr_cooldown(oracle_optimizer, lr, warmup, total, cooldown, 2.0, 1e-5),
    }[kind]()
    schedule = Schedule(kind, lr, warmup, total, cooldown, 1e-5, 2.0)
    for step in range(total):
        oracle(step)
        assert learning_rate(step, schedule) == oracle_optimizer.param_groups[0]["lr"]


def test_the_decay_split_is_the_oracles_rule(oracle_model):
    model = create_model("ViT-B-32", device="meta")
    with torch.device("meta"):
        oracle = oracle_model(model.config)
    # open_clip_train.main has the rule inline; this is its text.
    excluded = {
        name
        for name, p in oracle.named_parameters()
        if p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
    }
    undecayed, decayed = parameter_groups(model, 0.2)
    assert set(undecayed["names"]) == excluded
    assert set(decayed["names"]) == {name for name, _ in oracle.named_parameters()} - excluded

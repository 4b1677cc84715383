"""AdamW as built for training: torch's numbers (that it does not import the compiler: see the factory's tests)."""

import copy

import torch

from clip_trainer.optim import AdamWConfig, build_adamw


def test_steps_equal_those_of_torch():
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.LayerNorm(4))
    theirs = copy.deepcopy(ours)
    config = AdamWConfig(1e-2, weight_decay=0.1)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
    ]
    pairs = [
        (ours, build_adamw(ours, config)),
        (theirs, torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-6, fused=True)),
    ]
    for model, optimizer in pairs:
        for number in range(5):
            optimizer.zero_grad(set_to_none=True)
            model(torch.arange(10.0).reshape(2, 5) * (number + 1)).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))

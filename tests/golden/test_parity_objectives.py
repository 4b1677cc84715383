"""Twenty optimiser steps of SigLIP, CoCa and a distilled model equal those of a loop over OpenCLIP's own modules.

CLIP itself is in test_parity_training.py. Ours runs in micro-batches with every shortcut; OpenCLIP's in one piece.
"""

import math

import pytest
import torch

from clip_testkit.objectivework import CONFIGS, VOCABULARY, Setup, objective_of, tiny_batch, tiny_model
from clip_testkit.rankwork import group_of
from clip_trainer.optim import clamp_logit_scale
from clip_trainer.vision import OPENAI_PREPROCESS, normalize

pytestmark = pytest.mark.parity
STEPS, ROWS = 20, 9
SETUPS = [Setup("siglip", micro_batch=4), Setup("coca", micro_batch=2), Setup("clip", taught=True, micro_batch=5)]


def batches():
    """Other pictures and captions in each step."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        batch = tiny_batch((ROWS,))
        batch.images = torch.randint(0, 256, batch.images.shape, generator=generator, dtype=torch.uint8)
        words = torch.randint(1, VOCABULARY - 1, batch.tokens.shape, generator=generator)
        batch.tokens = words.where((batch.tokens > 0) & (batch.tokens < VOCABULARY - 1), batch.tokens)
        yield batch


def optimizer_of(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.2, eps=1e-6)


def oracle_model(open_clip, name):
    from open_clip.coca_model import CoCa

    cls = CoCa if name == "coca" else open_clip.CLIP
    content = {key: value for key, value in CONFIGS[name].items() if key != "custom_text"}
    model = cls(**content).double()
    model.load_state_dict(tiny_model(name).state_dict())
    model.output_dict = True
    return model


def oracle_loss(open_clip, setup):
    if setup.taught:
        from open_clip.loss import DistillClipLoss

        return DistillClipLoss()
    if setup.kind == "coca":
        return open_clip.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)
    from open_clip.loss import SigLipLoss

    return SigLipLoss()


def train_oracle(open_clip, setup):
    """One step a batch, the way open_clip_train does it."""
    model, loss = oracle_model(open_clip, setup.kind), oracle_loss(open_clip, setup)
    teacher = oracle_model(open_clip, "teacher").eval() if setup.taught else None
    optimizer, history = optimizer_of(model), []
    for batch in batches():
        images = normalize(batch.images, OPENAI_PREPROCESS.mean, OPENAI_PREPROCESS.std, torch.float64)
        out = model(images, batch.tokens)
        if teacher is not None:
            with torch.no_grad():
                out.update({f"dist_{key}": value for key, value in teacher(images, batch.tokens).items()})
        terms = loss(**out, output_dict=True)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        history.append({name: float(term.detach()) for name, term in terms.items()})
    return model, history


def train_ours(setup):
    model = tiny_model(setup.kind)
    objective, optimizer, history = objective_of(setup, model, group_of(0, 1)), optimizer_of(model), []
    for batch in batches():
        optimizer.zero_grad()
        terms = objective.backward(batch)
        optimizer.step()
        clamp_logit_scale(model)
        history.append({name: float(term) for name, term in terms.items()})
    return model, history


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: f"{setup.kind}{'-taught' * setup.taught}")
def test_twenty_steps(open_clip, setup):
    wanted, expected = train_oracle(open_clip, setup)
    model, history = train_ours(setup)
    assert len(history) == STEPS
    assert sum(expected[-1].values()) < sum(expected[0].values())
    for step, (terms, reference) in enumerate(zip(history, expected, strict=True)):
        assert terms == pytest.approx(reference, rel=1e-9), step
    reference = wanted.state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, reference[key], rtol=0, atol=1e-8, msg=lambda m, k=key: f"{k}: {m}")

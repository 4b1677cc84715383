"""Ten optimiser steps of ours equal ten steps of a loop over OpenCLIP's own modules."""

import math

import pytest
import torch

from clip_trainer.loss import ContrastiveLoss, Features, backward_cached
from clip_trainer.model import ClipConfig, create_model
from clip_trainer.optim import (
    AdamWConfig,
    Schedule,
    build_adamw,
    clamp_logit_scale,
    clip_gradient_norm,
    learning_rate,
    set_learning_rate,
)
from clip_trainer.weights.load import load_state

pytestmark = pytest.mark.parity
STEPS, ROWS = 10, 12
CONFIG = ClipConfig.from_dict(
    {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2},
        "init_logit_scale": 4.6,
    },
    "training",
)
SCHEDULE = Schedule("cosine", 1e-3, 3, STEPS)


def batches(dtype):
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        text = torch.randint(1, 99, (ROWS, 12), generator=generator)
        text[:, 6] = 99
        text[:, 7:] = 0
        yield torch.randn(ROWS, 3, 16, 16, generator=generator, dtype=dtype), text


def train_oracle(open_clip, model, dtype):
    """One optimiser step a batch, the way open_clip_train does it."""
    from open_clip_train.scheduler import cosine_lr

    small = [
        p for n, p in model.named_parameters() if p.ndim < 2 or any(k in n for k in ("bn", "ln", "bias", "logit_scale"))
    ]
    large = [p for p in model.parameters() if not any(p is other for other in small)]
    groups = [{"params": small, "weight_decay": 0.0}, {"params": large, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    scheduler, loss = cosine_lr(optimizer, 1e-3, 3, STEPS), open_clip.ClipLoss()
    losses = []
    for step, (image, text) in enumerate(batches(dtype)):
        scheduler(step)
        optimizer.zero_grad()
        total = loss(*model(image, text))
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(total.item())
    return losses


class Encoder:
    """Our model on images that are floats already, with the padding cut off."""

    def __init__(self, model):
        self.model = model

    def features(self, part):
        image, text = part
        image = self.model.encode_image(image, normalize=True)
        text = self.model.encode_text(text, normalize=True, text_length=8)
        return Features(image, text, self.model.logit_scale.exp())

    def features_and_terms(self, part):
        return self.features(part), {}

    def teacher(self, part):
        return None


def contrast(student, teacher):
    return {"contrastive_loss": ContrastiveLoss(tile=5)(student.image, student.text, student.scale)}


def train_ours(model, dtype, sizes):
    """The same with all our shortcuts, in micro-batches of the given sizes."""
    optimizer = build_adamw(model, AdamWConfig(1e-3))
    losses = []
    for step, (image, text) in enumerate(batches(dtype)):
        set_learning_rate(optimizer, learning_rate(step, SCHEDULE))
        optimizer.zero_grad()
        parts = list(zip(image.split(sizes), text.split(sizes), strict=True))
        out = backward_cached(parts, Encoder(model), contrast)
        clip_gradient_norm(model.parameters(), 1.0)
        optimizer.step()
        clamp_logit_scale(model)
        losses.append(out["contrastive_loss"].item())
    return losses


@pytest.mark.parametrize("sizes", [[12], [5, 7], [4, 4, 4]])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_ten_steps(open_clip, oracle_model, sizes, dtype, tolerance):
    # float32 only bounds how rounding grows through ten normalised updates; float64 shows that it is rounding.
    torch.manual_seed(0)
    oracle = oracle_model(CONFIG).to(dtype)
    ours = create_model(CONFIG).to(dtype)
    load_state(ours, oracle.state_dict())
    expected = train_oracle(open_clip, oracle, dtype)
    assert train_ours(ours, dtype, sizes) == pytest.approx(expected, rel=tolerance)
    assert expected[-1] < expected[0]
    wanted = oracle.state_dict()
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, wanted[key], rtol=0, atol=tolerance, msg=key)
    assert ours.logit_scale.item() == pytest.approx(math.log(100), abs=0.05)


def test_the_loss_is_clip_loss(open_clip):
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(17, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    image, text = (torch.nn.functional.normalize(x, dim=-1).requires_grad_() for x in (image, text))
    scale = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    expected = open_clip.ClipLoss()(image, text, scale)
    actual = ContrastiveLoss(4)(image, text, scale)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)
    inputs = (image, text, scale)
    for got, wanted in zip(torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-14)

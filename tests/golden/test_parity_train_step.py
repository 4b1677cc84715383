"""Twenty whole training steps (clipping, schedule, groups, optimiser, clamp) equal a loop over OpenCLIP's modules.

Ours is built from run.yaml and runs in micro-batches with every shortcut; OpenCLIP's is written as open_clip_train does
it, in one piece.
"""

import math

import pytest
import torch

from clip_testkit.objectivework import CONFIGS, CPU, FP64, VOCABULARY, tiny_batch
from clip_testkit.rankwork import group_of
from clip_trainer.loss import ContrastiveLoss, SigmoidLoss
from clip_trainer.model import ClipConfig, create_model, get_precision
from clip_trainer.optim import learning_rate
from clip_trainer.train.guard import Guard
from clip_trainer.train.objective import LossWeights, ModelObjective
from clip_trainer.train.objective_encoder import ModelEncoder, Runner
from clip_trainer.train.optimization import optimizer_of, schedule_of
from clip_trainer.train.step import TrainStep
from clip_trainer.vision import OPENAI_PREPROCESS, normalize
from clipctl.contract.sections import GuardSection
from clipctl.contract.spec import RunSpec

pytestmark = pytest.mark.parity
STEPS, ROWS, WARMUP = 20, 11, 4
LEARNING_RATE, CLIP = 1e-3, 0.5
START = {"init_logit_scale": 4.6}  # so that the clamp at ln 100 has work to do
CASES = [
    ("clip", "adamw", torch.float64, 1e-9),
    ("clip", "adamw", torch.float32, 1e-6),
    ("siglip", "adamw", torch.float64, 1e-9),
    ("siglip", "adamw", torch.float32, 1e-6),
    ("clip", "timm/lion", torch.float64, 1e-9),
]


def batches():
    """Other pictures and captions in each step."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        batch = tiny_batch((ROWS,))
        batch.images = torch.randint(0, 256, batch.images.shape, generator=generator, dtype=torch.uint8)
        words = torch.randint(1, VOCABULARY - 1, batch.tokens.shape, generator=generator)
        batch.tokens = words.where((batch.tokens > 0) & (batch.tokens < VOCABULARY - 1), batch.tokens)
        yield batch


def oracle_optimizer(model, name):
    if name.startswith("timm/"):
        from timm.optim import create_optimizer_v2

        return create_optimizer_v2(model, name.removeprefix("timm/"), lr=LEARNING_RATE, weight_decay=0.2)
    named = list(model.named_parameters())
    small = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    large = [p for _, p in named if not any(p is other for other in small)]
    groups = [{"params": small, "weight_decay": 0.0}, {"params": large, "weight_decay": 0.2}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)


def train_oracle(open_clip, model, kind, optimizer_name, dtype):
    from open_clip.loss import ClipLoss, SigLipLoss
    from open_clip_train.scheduler import cosine_lr

    loss = SigLipLoss() if kind == "siglip" else ClipLoss()
    optimizer = oracle_optimizer(model, optimizer_name)
    scheduler = cosine_lr(optimizer, LEARNING_RATE, WARMUP, STEPS)
    model.output_dict = True
    losses = []
    for step, batch in enumerate(batches()):
        scheduler(step)
        optimizer.zero_grad()
        images = normalize(batch.images, OPENAI_PREPROCESS.mean, OPENAI_PREPROCESS.std, dtype)
        total = sum(loss(**model(images, batch.tokens), output_dict=True).values())
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP, norm_type=2.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(total.item())
    return losses


def train_ours(model, kind, optimizer_name, precision):
    train = {
        "global_batch": ROWS,
        "steps": STEPS,
        "learning_rate": LEARNING_RATE,
        "warmup_steps": WARMUP,
        "grad_clip_norm": CLIP,
        "optimizer": optimizer_name,
    }
    raw = {"name": "run", "model": {"name": "ViT-tiny"}, "data": {"train": "/d"}, "checkpoint": {"path": "/c"}}
    spec, group = RunSpec.model_validate({**raw, "train": train}), group_of(0, 1)
    contrast = SigmoidLoss() if kind == "siglip" else ContrastiveLoss()
    encoder = ModelEncoder(Runner(model, precision, OPENAI_PREPROCESS, CPU))
    objective = ModelObjective(encoder, group, contrast, LossWeights(), micro_batch=4)
    guard, schedule = Guard(GuardSection()), schedule_of(spec, samples=1)
    optimizer = optimizer_of(spec, model)
    step = TrainStep(model, optimizer, group, objective, guard, grad_clip_norm=spec.train.grad_clip_norm)
    results = [step(batch, learning_rate(number, schedule)) for number, batch in enumerate(batches())]
    assert {result.skipped for result in results} == {None}
    assert results[0].gradient_norm > CLIP
    return [result.loss for result in results]


def seen_by_the_loss(name, tensor):
    """Softmax does not see the bias of the keys: its gradient is rounding noise, which Adam and Lion scale up."""
    if not name.endswith("in_proj_bias"):
        return tensor
    query, _, value = tensor.chunk(3)
    return torch.cat([query, value])


@pytest.mark.parametrize(("kind", "optimizer", "dtype", "tolerance"), CASES)
def test_twenty_steps(open_clip, kind, optimizer, dtype, tolerance):
    content = CONFIGS[kind] | ({} if kind == "siglip" else START)
    torch.manual_seed(3)
    oracle = open_clip.CLIP(**{k: v for k, v in content.items() if k != "custom_text"}).to(dtype)
    model = create_model(ClipConfig.from_dict(content, kind)).to(dtype)
    model.load_state_dict(oracle.state_dict())
    expected = train_oracle(open_clip, oracle, kind, optimizer, dtype)
    precision = FP64 if dtype == torch.float64 else get_precision("fp32")
    # The loss is a difference of logits, which are up to 100 large: that is what rounding is relative to.
    losses = train_ours(model, kind, optimizer, precision)
    assert losses == pytest.approx(expected, rel=tolerance, abs=100 * tolerance)
    assert expected[-1] < expected[0]
    wanted = oracle.state_dict()
    for key, value in model.state_dict().items():
        value, reference = (seen_by_the_loss(key, tensor) for tensor in (value, wanted[key]))
        torch.testing.assert_close(value, reference, rtol=0, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")
    if kind == "clip":
        assert model.logit_scale.item() == pytest.approx(math.log(100), abs=0.05)

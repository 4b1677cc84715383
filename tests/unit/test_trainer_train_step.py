"""One optimiser step: the micro-batch is a memory knob only, and a loss that is not finite changes nothing."""

import copy

import numpy as np
import pytest
import torch

from clip_testkit.rankwork import group_of, small_model
from clip_trainer.data.batch import Batch
from clip_trainer.loss import ContrastiveLoss
from clip_trainer.model import get_precision
from clip_trainer.optim import AdamWConfig, build_adamw
from clip_trainer.text import BpeTokenizer
from clip_trainer.train.ledger import sample_digest
from clip_trainer.train.objective import LossWeights, ModelObjective
from clip_trainer.train.objective_encoder import ModelEncoder, Runner
from clip_trainer.train.step import TrainStep
from clip_trainer.vision import OPENAI_PREPROCESS
from clipctl.contract.errors import InternalError

SIZE = 7


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.from_numpy(BpeTokenizer(16)([f"picture {i}" for i in range(SIZE)]))
    return Batch(
        images=torch.randint(0, 256, (SIZE, 3, 16, 16), generator=generator, dtype=torch.uint8),
        tokens=tokens,
        text_max_len=4,
        sample_ids=np.arange(SIZE, dtype=np.uint64),
        position_start=14,
        position_end=14 + SIZE,
        counts=(SIZE,),
        replaced=(),
        wait_seconds=0.5,
    )


def step_of(model, micro_batch=3, clip=None):
    optimizer = build_adamw(model, AdamWConfig(1e-3))
    group = group_of(0, 1)
    encoder = ModelEncoder(Runner(model, get_precision("fp32"), OPENAI_PREPROCESS, group.device))
    objective = ModelObjective(encoder, group, ContrastiveLoss(), LossWeights(), micro_batch=micro_batch)
    return TrainStep(model, optimizer, group, objective, grad_clip_norm=clip), optimizer


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 100])
def test_the_micro_batch_changes_nothing(batch, micro_batch):
    def after(size):
        model = small_model()
        result = step_of(model, size)[0](batch, 1e-3, False)
        return result.loss, result.gradient_norm, [p.grad.clone() for p in model.parameters()]

    loss, norm, gradients = after(micro_batch)
    whole = after(SIZE)
    assert loss == pytest.approx(whole[0], rel=1e-6)
    assert norm == pytest.approx(whole[1], rel=1e-4)
    for gradient, expected in zip(gradients, whole[2], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5 * whole[1])


def test_the_loss_is_the_dense_one(batch):
    model = small_model()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_PREPROCESS.mean, OPENAI_PREPROCESS.std))
    with torch.no_grad():
        out = copy.deepcopy(model)((batch.images.float() / 255 - mean) / std, batch.tokens)
        logits = out.logit_scale * out.image_features @ out.text_features.T
        right = torch.arange(SIZE)
        cross_entropy = torch.nn.functional.cross_entropy
        expected = (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2
    result = step_of(model)[0](batch, 1e-3, False)
    assert result.loss == pytest.approx(float(expected), rel=1e-5)
    assert result.losses == {"contrastive_loss": result.loss}


def test_what_a_step_reports(batch):
    result = step_of(small_model())[0](batch, 1e-3, True)
    assert result.digest == int(sample_digest(batch.sample_ids, 14))
    assert result.preempted is True
    assert result.replaced == 0
    assert set(result.seconds) == {"data", "compute", "reduce", "optimizer"}
    assert result.seconds["data"] == 0.5


def test_the_learning_rate_is_the_one_given(batch):
    frozen, moved = small_model(), small_model()
    before = weights(frozen)
    step_of(frozen)[0](batch, 0.0, False)
    step_of(moved)[0](batch, 1e-3, False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(frozen).items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(moved).items())


def test_gradients_of_the_step_before_do_not_linger(batch):
    model = small_model()
    step, _ = step_of(model)
    first = step(batch, 0.0, False).gradient_norm
    assert step(batch, 0.0, False).gradient_norm == pytest.approx(first, rel=1e-5)


def test_clipping_changes_the_gradient_and_not_the_reported_norm(batch):
    model = small_model()
    result = step_of(model, clip=1e-3)[0](batch, 0.0, False)
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert result.gradient_norm > 1e-2
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_no_weights(batch, poison):
    model = small_model()
    step, optimizer = step_of(model)
    step(batch, 1e-3, False)  # so that there are moments to spoil
    with torch.no_grad():
        model.logit_scale.fill_(poison)
    before, moments = weights(model), copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(InternalError, match="on the batch at sample 14; weights are unchanged") as caught:
        step(batch, 1e-3, False)
    assert caught.value.code == 70
    assert "learning_rate" in caught.value.hint
    for name, tensor in weights(model).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)
    for number, state in optimizer.state_dict()["state"].items():
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, moments[number][name], rtol=0, atol=0)

"""One optimiser step: the micro-batch is a memory knob only, and a loss that is not finite changes nothing."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clip_testkit.rankwork import group_of, small_model
from clip_trainer.data.loading.batch import Batch
from clip_trainer.loss import ContrastiveLoss
from clip_trainer.model import get_precision
from clip_trainer.optim import AdamWConfig, LossScaler, build_adamw
from clip_trainer.text import BpeTokenizer
from clip_trainer.train.guard import Guard
from clip_trainer.train.ledger import sample_digest
from clip_trainer.train.objective import LossWeights, ModelObjective
from clip_trainer.train.objective_encoder import ModelEncoder, Runner
from clip_trainer.train.step import TrainStep
from clip_trainer.train.wishes import Wishes
from clip_trainer.vision import OPENAI_PREPROCESS
from clipctl.contract.sections import GuardSection

SIZE = 7


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.from_numpy(BpeTokenizer(16)([f"picture {i}" for i in range(SIZE)]))
    return Batch(
        images=torch.randint(0, 256, (SIZE, 3, 16, 16), generator=generator, dtype=torch.uint8),
        tokens=tokens,
        text_lengths=torch.full((SIZE,), 4, dtype=torch.int32),
        text_max_len=4,
        sample_ids=np.arange(SIZE, dtype=np.uint64),
        position_start=14,
        position_end=14 + SIZE,
        counts=(SIZE,),
        replaced=(),
        wait_seconds=0.5,
    )


def step_of(model, micro_batch=3, clip=None, precision="fp32", guard=None, scaler=None):
    optimizer = build_adamw(model, AdamWConfig(1e-3))
    group = group_of(0, 1)
    encoder = ModelEncoder(Runner(model, get_precision(precision), OPENAI_PREPROCESS, group.device))
    objective = ModelObjective(encoder, group, ContrastiveLoss(), LossWeights(), micro_batch=micro_batch)
    guard = guard or Guard(GuardSection())
    return TrainStep(model, optimizer, group, objective, guard, grad_clip_norm=clip, scaler=scaler), optimizer


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 100])
def test_the_micro_batch_changes_nothing(batch, micro_batch):
    def after(size):
        model = small_model()
        result = step_of(model, size)[0](batch, 1e-3)
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
    result = step_of(model)[0](batch, 1e-3)
    assert result.loss == pytest.approx(float(expected), rel=1e-5)
    assert result.losses == {"contrastive_loss": result.loss}


def test_what_a_step_reports(batch):
    result = step_of(small_model())[0](batch, 1e-3, Wishes(preempted=1, saved=7))
    assert result.digest == int(sample_digest(batch.sample_ids, 14))
    assert result.agreed == Wishes(preempted=1, saved=7)
    assert result.replaced == 0
    assert result.skipped is None
    assert set(result.seconds) == {"data", "compute", "reduce", "optimizer"}
    assert result.seconds["data"] == 0.5


def test_the_learning_rate_is_the_one_given(batch):
    frozen, moved = small_model(), small_model()
    before = weights(frozen)
    step_of(frozen)[0](batch, 0.0)
    step_of(moved)[0](batch, 1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(frozen).items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(moved).items())


def test_gradients_of_the_step_before_do_not_linger(batch):
    model = small_model()
    step, _ = step_of(model)
    first = step(batch, 0.0).gradient_norm
    assert step(batch, 0.0).gradient_norm == pytest.approx(first, rel=1e-5)


def test_clipping_changes_the_gradient_and_not_the_reported_norm(batch):
    model = small_model()
    result = step_of(model, clip=1e-3)[0](batch, 0.0)
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert result.gradient_norm > 1e-2
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_no_weights(batch, poison):
    model = small_model()
    step, optimizer = step_of(model)
    step(batch, 1e-3)  # so that there are moments to spoil
    with torch.no_grad():
        model.logit_scale.fill_(poison)
    before, moments = weights(model), copy.deepcopy(optimizer.state_dict()["state"])
    result = step(batch, 1e-3)
    assert result.skipped == f"the loss is {result.loss}"
    assert not math.isfinite(result.loss)
    assert math.isnan(result.gradient_norm)
    for name, tensor in weights(model).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)
    for number, state in optimizer.state_dict()["state"].items():
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, moments[number][name], rtol=0, atol=0)


class Exploding:
    """An objective whose loss is fine but whose gradients are not."""

    def __init__(self, inner, model):
        self.inner, self.model = inner, model

    def backward(self, batch, *, upstream=1.0):
        terms = self.inner.backward(batch, upstream=upstream)
        self.model.visual.proj.grad.view(-1)[0] = math.inf
        return terms


def test_a_gradient_that_is_not_finite_changes_no_weights(batch):
    model, guard = small_model(), Guard(GuardSection())
    step, optimizer = step_of(model, guard=guard, clip=1.0)
    step(batch, 1e-3)
    step._objective = Exploding(step._objective, model)
    before, counts = weights(model), optimizer.state[model.visual.proj]["step"].clone()
    result = step(batch, 1e-3)
    assert result.skipped == "the gradient's norm is inf"
    assert math.isfinite(result.loss)
    assert (guard.in_a_row, guard.skipped) == (1, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    assert torch.equal(optimizer.state[model.visual.proj]["step"], counts)


def test_the_guard_changes_nothing_where_nothing_happens(batch):
    strict = Guard(GuardSection(max_skipped=0, spike_factor=1.5, window=1))
    plain, guarded = small_model(), small_model()
    for model, guard in ((plain, None), (guarded, strict)):
        step, _ = step_of(model, guard=guard)
        for _ in range(3):
            assert step(batch, 1e-3).skipped is None
    assert all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(guarded).items())


class TestLossScaling:
    def test_the_scale_is_undone_exactly(self, batch):
        plain, scaled = small_model(), small_model()
        first = step_of(plain, clip=0.5)[0](batch, 1e-3)
        second = step_of(scaled, clip=0.5, scaler=LossScaler(scale=1024.0))[0](batch, 1e-3)
        assert second.loss == first.loss
        assert second.gradient_norm == pytest.approx(first.gradient_norm, rel=1e-6)
        for name, tensor in weights(scaled).items():
            torch.testing.assert_close(tensor, weights(plain)[name], rtol=1e-5, atol=1e-7)

    def test_an_overflow_lowers_the_scale_and_is_not_held_against_the_run(self, batch):
        model, guard, scaler = small_model(), Guard(GuardSection(max_skipped=0)), LossScaler(scale=1e38)
        step, _ = step_of(model, guard=guard, scaler=scaler)
        before = weights(model)
        results = [step(batch, 1e-3) for _ in range(3)]
        assert results[0].skipped == "the gradient overflows at loss scale 1e+38"
        assert scaler.scale < 1e38
        assert (guard.in_a_row, guard.skipped) == (0, 0)
        assert all(torch.equal(t, before[n]) for n, t in weights(model).items()) or results[-1].skipped is None

    def test_without_a_scale_to_lower_it_is_the_guards_business(self, batch):
        model, guard = small_model(), Guard(GuardSection())
        step, _ = step_of(model, guard=guard, scaler=LossScaler(scale=1.0))
        step._objective = Exploding(step._objective, model)
        assert step(batch, 1e-3).skipped == "the gradient's norm is inf"
        assert guard.in_a_row == 1

    def test_half_precision_trains(self, batch):
        model, scaler = small_model(), LossScaler()
        step, _ = step_of(model, precision="amp", scaler=scaler)
        losses = [step(batch, 1e-3).loss for _ in range(6)]
        assert losses[-1] < losses[0]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert scaler.good_steps > 0


@pytest.mark.parametrize("precision", ["fp32", "amp", "amp_bf16", "bf16", "fp16", "pure_bf16", "pure_fp16"])
@pytest.mark.parametrize("micro_batch", [3, 7])
def test_every_precision_steps(batch, precision, micro_batch):
    model = small_model(precision=precision)
    step, _ = step_of(model, micro_batch, clip=1.0, precision=precision)
    exact = step_of(small_model())[0](batch, 1e-3).loss
    before = weights(model)
    result = step(batch, 1e-3)
    assert result.skipped is None
    assert result.loss == pytest.approx(exact, rel=0.03)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(model).items())


def test_an_error_before_the_update_changes_nothing(batch):
    model = small_model()
    step, optimizer = step_of(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def lose_a_peer(*_):
        raise RuntimeError("Connection closed by peer")

    step._group = SimpleNamespace(device=torch.device("cpu"), sum=lose_a_peer, world=2)
    with pytest.raises(RuntimeError, match="closed by peer"):
        step(batch, 1e-3)
    assert not step.torn
    assert optimizer.state == {}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_an_error_in_the_middle_of_the_update_is_remembered(batch):
    step, optimizer = step_of(small_model())
    optimizer.step = lambda: (_ for _ in ()).throw(RuntimeError("no memory"))
    with pytest.raises(RuntimeError, match="no memory"):
        step(batch, 1e-3)
    assert step.torn


def test_what_must_happen_before_the_update_happens_before_it(batch):
    model = small_model()
    weight = next(model.parameters())
    before, seen = weight.detach().clone(), []
    step = step_of(model)[0]
    step._before_update = lambda: seen.append(torch.equal(weight, before))
    step(batch, 1e-3)
    assert seen == [True]
    assert not torch.equal(weight, before)

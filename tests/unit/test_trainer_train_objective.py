"""What a step minimises: its terms and gradients are those of the definitions, however they are computed."""

import pytest
import torch

from clip_testkit.objectivework import (
    CPU,
    FP64,
    Setup,
    dense_objective,
    gradients_of,
    objective_of,
    run_objectives,
    tiny_batch,
    tiny_model,
)
from clip_testkit.ranks import run_ranks
from clip_testkit.rankwork import group_of
from clip_trainer.loss import ContrastiveLoss
from clip_trainer.train.objective import LossWeights, ModelObjective
from clip_trainer.train.objective_encoder import ModelEncoder, Runner, frozen_statistics
from clip_trainer.vision import OPENAI_PREPROCESS

ROWS = 7
SETUPS = [
    Setup("clip"),
    Setup("siglip"),
    Setup("coca"),
    Setup("clip", taught=True),
    Setup("siglip", taught=True),
    Setup("coca", taught=True, contrastive=0.5),
    Setup("coca", contrastive=0.0),
    Setup("clip", taught=True, contrastive=0.0),
]


def named(setup):
    return f"{setup.kind}{'-taught' * setup.taught}-{setup.contrastive:g}"


@pytest.fixture(scope="module")
def expected():
    """Terms and gradients from the definitions, for each setup."""
    answers = {}
    for setup in SETUPS:
        model = tiny_model(setup.kind, Setup(setup.kind, speed_ups=False))
        terms = dense_objective(setup, model, tiny_batch((ROWS,)))
        sum(terms.values()).backward()
        answers[setup] = {name: term.item() for name, term in terms.items()}, gradients_of(model)
    return answers


def check(actual, wanted, *, unused=()):
    terms, gradients = actual
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(wanted[0], rel=1e-12, abs=1e-15)
    for name, gradient in wanted[1].items():
        if name in gradients:
            seen = torch.as_tensor(gradients[name])
            torch.testing.assert_close(seen, gradient, rtol=1e-10, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}")
        else:
            assert not gradient.any(), name  # weight 0 leaves the parameter out


@pytest.mark.parametrize("micro_batch", [1, 3, 100])
@pytest.mark.parametrize("setup", SETUPS, ids=named)
def test_terms_and_gradients_are_those_of_the_definition(expected, setup, micro_batch):
    model = tiny_model(setup.kind)
    objective = objective_of(setup._replace(micro_batch=micro_batch, tile=4), model, group_of(0, 1))
    terms = objective.backward(tiny_batch((ROWS,)))
    assert not any(term.requires_grad for term in terms.values())
    check((terms, gradients_of(model)), expected[setup])


@pytest.mark.parametrize("counts", [(4, 3), (2, 0, 5)])
def test_ranks_together_are_one_process(expected, counts, tmp_path):
    setups = [setup._replace(micro_batch=2, tile=3) for setup in SETUPS]
    for answers in run_ranks(len(counts), tmp_path, run_objectives, setups, counts):
        for setup, answer in zip(SETUPS, answers, strict=True):
            check(answer, expected[setup])


@pytest.mark.parametrize("micro_batch", [3, 100])
@pytest.mark.parametrize(
    "change", [{"speed_ups": False}, {"grad_checkpointing": True}, {"tile": 1}, {"tile": 5}], ids=str
)
@pytest.mark.parametrize("setup", [Setup("clip"), Setup("siglip", taught=True), Setup("coca")], ids=named)
def test_every_speed_up_leaves_the_gradients_alone(expected, setup, change, micro_batch):
    changed = setup._replace(micro_batch=micro_batch, **change)
    model = tiny_model(setup.kind, changed)
    terms = objective_of(changed, model, group_of(0, 1)).backward(tiny_batch((ROWS,)))
    check((terms, gradients_of(model)), expected[setup])


@pytest.mark.parametrize("setup", SETUPS[:5], ids=named)
def test_padding_may_be_left_out_of_the_text(expected, setup):
    model = tiny_model(setup.kind)
    batch = tiny_batch((ROWS,))
    assert batch.text_max_len == 7
    batch.text_max_len = 16
    terms = objective_of(setup, model, group_of(0, 1)).backward(batch)
    check((terms, gradients_of(model)), expected[setup])


@pytest.mark.parametrize("micro_batch", [3, 100])
def test_upstream_scales_gradients_only(micro_batch):
    setup = Setup("coca", taught=True, micro_batch=micro_batch)
    plain, scaled = tiny_model("coca"), tiny_model("coca")
    terms = objective_of(setup, plain, group_of(0, 1)).backward(tiny_batch((ROWS,)))
    assert objective_of(setup, scaled, group_of(0, 1)).backward(tiny_batch((ROWS,)), upstream=256.0) == terms
    for name, gradient in gradients_of(scaled).items():
        torch.testing.assert_close(gradient, 256 * gradients_of(plain)[name], rtol=1e-12, atol=0)


def test_a_skipped_contrastive_term_is_reported_as_zero():
    model = tiny_model("coca")
    objective = objective_of(Setup("coca", contrastive=0.0), model, group_of(0, 1))
    terms = objective.backward(tiny_batch((ROWS,)))
    assert terms["contrastive_loss"].item() == 0.0
    assert terms["caption_loss"].item() > 0
    assert "logit_scale" not in gradients_of(model)


def test_nothing_to_minimise_is_refused():
    encoder = ModelEncoder(Runner(tiny_model("clip"), FP64, OPENAI_PREPROCESS, CPU))
    with pytest.raises(ValueError, match="nothing to minimise"):
        ModelObjective(encoder, group_of(0, 1), ContrastiveLoss(), LossWeights(0.0), micro_batch=1)


@pytest.mark.parametrize("micro_batch", [3, 100])
def test_dropped_patches_are_the_same_in_both_passes(micro_batch):
    """The gradient along a direction is the slope of the loss with the same patches dropped."""
    setup = Setup("clip", micro_batch=micro_batch)

    def run(shift, rate=0.5):
        model = tiny_model("clip")
        model.visual.set_patch_dropout(rate)
        with torch.no_grad():
            model.visual.proj.add_(shift)
        terms = objective_of(setup, model, group_of(0, 1)).backward(tiny_batch((ROWS,)))
        return terms["contrastive_loss"].item(), model.visual.proj.grad

    direction = torch.randn(tiny_model("clip").visual.proj.shape, generator=torch.Generator().manual_seed(1)).double()
    assert run(0.0)[0] != pytest.approx(run(0.0, rate=0.0)[0], rel=1e-3)
    step = 1e-6
    slope = (run(step * direction)[0] - run(-step * direction)[0]) / (2 * step)
    assert slope == pytest.approx(float((run(0.0)[1] * direction).sum()), rel=1e-6)


def test_dropped_patches_do_not_depend_on_the_split():
    def run(micro_batch):
        model = tiny_model("clip")
        model.visual.set_patch_dropout(0.5)
        terms = objective_of(Setup("clip", micro_batch=micro_batch), model, group_of(0, 1)).backward(
            tiny_batch((ROWS,))
        )
        return terms["contrastive_loss"], model.visual.proj.grad

    for found, expected in zip(run(3), run(100), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_half_precision_outputs_reach_the_loss_in_float32():
    out = Runner(tiny_model("siglip").bfloat16(), FP64, OPENAI_PREPROCESS, CPU)._features(
        torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 3)
    )
    assert {tensor.dtype for tensor in out} == {torch.float32}
    assert out.scale.shape == out.bias.shape == ()


def test_batch_statistics_are_counted_once():
    norm = torch.nn.BatchNorm1d(3)
    model = torch.nn.Sequential(norm, torch.nn.BatchNorm1d(3).eval())
    before = norm.running_mean.clone()
    values = torch.randn(5, 3) + 2
    with frozen_statistics(model):
        inside = norm(values)
    assert torch.equal(norm.running_mean, before)
    assert norm.num_batches_tracked == 0
    assert torch.equal(inside, norm(values))
    assert not torch.equal(norm.running_mean, before)
    assert norm.num_batches_tracked == 1
    assert model[1].track_running_stats

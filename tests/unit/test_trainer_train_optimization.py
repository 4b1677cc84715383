"""From run.yaml to optimiser and schedule."""

import pytest

from clip_testkit.rankwork import small_model
from clip_trainer.optim import learning_rate
from clip_trainer.train.optimization import optimizer_of, schedule_of, steps_of
from clipctl.contract.errors import SpecError
from clipctl.contract.spec import RunSpec

SAMPLES = 1000


def spec_of(model="ViT-B-32", **train):
    return RunSpec.model_validate(
        {
            "name": "run",
            "model": {"name": model},
            "data": {"train": "/data"},
            "train": {"global_batch": 64, **({} if "epochs" in train else {"steps": 100}), **train},
            "checkpoint": {"path": "/runs"},
        }
    )


@pytest.mark.parametrize(
    ("train", "steps"), [({"steps": 7}, 7), ({"epochs": 1}, 16), ({"epochs": 0.5}, 8), ({"epochs": 1e-9}, 1)]
)
def test_the_length(train, steps):
    spec = spec_of(**train)
    assert steps_of(spec, SAMPLES) == steps
    assert schedule_of(spec, SAMPLES).total_steps == steps


@pytest.mark.parametrize(
    ("train", "rates"),
    [
        ({"schedule": "cosine"}, {0: 1e-4, 9: 1e-3, 55: 5e-4, 100: 0.0}),
        ({"schedule": "constant"}, {0: 1e-4, 99: 1e-3}),
        ({"schedule": "none"}, {0: 1e-3, 99: 1e-3}),
        ({"schedule": "constant-cooldown", "cooldown_steps": 20}, {80: 1e-3, 90: 5e-4, 99: 5e-5}),
        (
            {"schedule": "constant-cooldown", "cooldown_steps": 20, "cooldown_power": 2.0, "cooldown_end": 1e-5},
            {90: 2.575e-4, 99: 1.2475e-5, 200: 1e-5},
        ),
        ({"schedule": "wsd", "cooldown_epochs": 1.25}, {80: 1e-3, 85: 5e-4, 100: 0.0}),
    ],
)
def test_schedules(train, rates):
    schedule = schedule_of(spec_of(learning_rate=1e-3, warmup_steps=10, **train), SAMPLES)
    assert {step: learning_rate(step, schedule) for step in rates} == pytest.approx(rates, rel=1e-9, abs=1e-18)


def test_a_cooldown_longer_than_the_run():
    with pytest.raises(SpecError, match="A cooldown of 157 steps does not fit a run of 100"):
        schedule_of(spec_of(schedule="wsd", cooldown_epochs=10), SAMPLES)


def groups_of(**train):
    optimizer = optimizer_of(spec_of(**train), small_model())
    return {name: group for group in optimizer.param_groups for name in group["names"]}


def test_defaults_are_openclips():
    groups = groups_of()
    assert {(g["betas"], g["eps"], g["lr"]) for g in groups.values()} == {((0.9, 0.98), 1e-6, 5e-4)}
    assert groups["positional_embedding"]["weight_decay"] == 0.2
    assert groups["ln_final.weight"]["weight_decay"] == 0.0


def test_every_field_arrives():
    groups = groups_of(
        optimizer="adamw",
        optimizer_options={"amsgrad": True},
        learning_rate=0.1,
        weight_decay=0.3,
        decay_rule="modern",
        no_decay=["visual.conv1.*"],
        layer_decay={"image": 0.5, "text": 0.25},
        parameter_groups=[{"match": "text_projection", "learning_rate_scale": 0.125, "weight_decay": 0.7}],
        beta1=0.5,
        beta2=0.75,
        eps=1e-3,
    )
    assert {(g["betas"], g["eps"], g["amsgrad"], g["lr"]) for g in groups.values()} == {((0.5, 0.75), 1e-3, True, 0.1)}
    found = {
        name: (groups[name]["weight_decay"], groups[name]["lr_scale"])
        for name in ("text_projection", "visual.conv1.weight", "visual.proj", "positional_embedding", "logit_scale")
    }
    assert found == {
        "text_projection": (0.7, 0.125),
        "visual.conv1.weight": (0.0, 0.25),
        "visual.proj": (0.3, 1.0),
        "positional_embedding": (0.0, 0.0625),
        "logit_scale": (0.0, 1.0),
    }


def test_momentum_arrives():
    assert groups_of(optimizer="sgd", momentum=0.5)["visual.proj"]["momentum"] == 0.5


def test_timms_optimisers_divide_as_in_openclip():
    assert groups_of(optimizer="timm/lion")["positional_embedding"]["weight_decay"] == 0.0


def test_an_unknown_optimiser_is_the_users_error():
    with pytest.raises(SpecError, match="There is no optimiser called 'adamwx'"):
        groups_of(optimizer="adamwx")

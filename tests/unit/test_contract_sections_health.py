"""What run.yaml says about the health of a run, and about sharing the model."""

import copy

import pytest
from pydantic import ValidationError

from clipctl.contract.sections import HealthSection
from clipctl.contract.spec import SHARDED_OPTIMIZERS, RunSpec

RAW = {
    "name": "demo",
    "model": {"name": "ViT-B-32"},
    "data": {"train": "s3://bucket/train"},
    "train": {"global_batch": 128, "steps": 100},
    "checkpoint": {"path": "s3://bucket/runs"},
}


def spec(**sections):
    raw = copy.deepcopy(RAW)
    for section, fields in sections.items():
        raw[section] = {**raw.get(section, {}), **fields}
    return RunSpec.model_validate(raw)


class TestHealth:
    def test_a_run_watches_itself_unless_it_says_otherwise(self):
        assert spec().health == HealthSection(hang_seconds=10.0, checksum_steps=100, straggler_ratio=1.5)

    def test_comparing_weights_can_be_switched_off(self):
        assert spec(health={"checksum_steps": 0}).health.checksum_steps == 0

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("hang_seconds", 0),
            ("hang_seconds", -1.0),
            ("checksum_steps", -1),
            ("checksum_steps", 1.5),
            ("straggler_ratio", 1.0),
            ("straggler_ratio", float("inf")),
            ("straggler_ratio", float("nan")),
            ("unknown", 1),
        ],
    )
    def test_senseless_values_are_refused(self, field, value):
        with pytest.raises(ValidationError) as caught:
            spec(health={field: value})
        assert caught.value.errors()[0]["loc"][:2] == ("health", field)

    def test_watching_is_no_part_of_what_is_trained(self):
        assert spec(health={"checksum_steps": 7}).training_digest("d") == spec().training_digest("d")
        assert spec(health={"checksum_steps": 7}).digest() != spec().digest()


class TestParallel:
    def test_every_rank_has_all_of_the_model_unless_told_otherwise(self):
        assert spec().train.parallel == "ddp"

    @pytest.mark.parametrize("optimizer", SHARDED_OPTIMIZERS)
    def test_optimisers_that_work_element_by_element_can_be_sharded(self, optimizer):
        assert spec(train={"parallel": "fsdp", "optimizer": optimizer}).train.parallel == "fsdp"

    @pytest.mark.parametrize(
        ("sections", "words"),
        [
            ({"train": {"optimizer": "muon"}}, "element by element: adamw, adam, sgd"),
            ({"train": {"optimizer": "adafactor"}}, "element by element"),
            ({"train": {"optimizer": "timm/lamb"}}, "element by element"),
            ({"model": {"compile": True}}, "model.compile exclude each other"),
            ({"checkpoint": {"resume_from": "epoch_3.pt"}}, "resume_from needs train.parallel ddp"),
        ],
    )
    def test_what_cannot_be_sharded_is_refused(self, sections, words):
        assert spec(**sections).train.parallel == "ddp"
        sections = {**sections, "train": {**sections.get("train", {}), "parallel": "fsdp"}}
        with pytest.raises(ValidationError) as caught:
            spec(**sections)
        assert words in str(caught.value)

    def test_a_run_may_change_between_the_two(self):
        assert spec(train={"parallel": "fsdp"}).training_digest("d") == spec().training_digest("d")

"""Naming a checkpoint: latest, best, a step, an id; and nothing else."""

import pytest

from clip_testkit.memorystore import MemoryStore
from clip_testkit.savedrun import damage, save
from clipctl.contract import layout
from clipctl.contract.checkpoint_selector import (
    candidates,
    is_selector,
    matches,
    select,
    select_verified,
    split_target,
)
from clipctl.contract.errors import CorruptError, MissingError, SpecError
from clipctl.contract.layout import CheckpointId


@pytest.fixture
def store():
    """Steps 10 to 40; 20 has the lowest loss, and step 30 was saved by two incarnations."""
    store = MemoryStore()
    for step, incarnation, loss in ((10, 1, 3.0), (20, 1, 1.0), (30, 1, 2.0), (30, 2, 2.5), (40, 2, 1.5)):
        save(store, step, incarnation, metrics={"loss": loss})
    return store


class TestSelecting:
    @pytest.mark.parametrize(
        ("which", "found"),
        [
            ("latest", (40, 2)),
            ("best", (20, 1)),
            ("30", (30, 2)),
            ("00030", (30, 2)),
            ("step-00000030.inc-000001", (30, 1)),
        ],
    )
    def test_what_is_meant(self, store, which, found):
        assert select(store, which) == CheckpointId(*found)

    @pytest.mark.parametrize("which", ["35", "0", "step-00000030.inc-000003"])
    def test_what_is_not_there(self, store, which):
        with pytest.raises(MissingError, match=f"holds no checkpoint {which}") as caught:
            select(store, which)
        assert "checkpoints ls" in caught.value.hint

    @pytest.mark.parametrize("which", ["latest", "best", "30"])
    def test_a_run_without_checkpoints(self, which):
        with pytest.raises(MissingError, match="holds no checkpoint"):
            select(MemoryStore(), which)

    def test_the_best_of_a_run_that_records_no_loss(self):
        store = MemoryStore()
        save(store, 1, metrics={"accuracy": 1.0})
        with pytest.raises(MissingError, match="no checkpoint with a loss"):
            select(store, "best")

    @pytest.mark.parametrize("which", ["", "newest", "-1", "1.5", "LATEST", "step-30", "../x", "3" * 17, "latest\n"])
    def test_what_names_nothing(self, store, which):
        assert not is_selector(which)
        with pytest.raises(SpecError):
            matches(store, which)

    def test_a_damaged_commit_record_has_no_loss(self, store):
        damage(store, layout.commit_key(CheckpointId(20, 1)))
        assert select(store, "best") == CheckpointId(40, 2)
        assert [c.loss for c in candidates(store)] == [3.0, None, 2.0, 2.5, 1.5]


class TestVerifying:
    @pytest.mark.parametrize(
        ("which", "broken", "found"),
        [("latest", (40, 2), (30, 2)), ("best", (20, 1), (40, 2)), ("30", (30, 2), (30, 1))],
    )
    def test_the_next_best_is_taken_visibly(self, store, which, broken, found):
        damage(store, layout.checkpoint_prefix(CheckpointId(*broken)) + "weights-00000-of-00001.safetensors")
        rejected = []
        assert select_verified(store, which, rejected.append) == CheckpointId(*found)
        assert [r.checkpoint for r in rejected] == [CheckpointId(*broken)]

    def test_an_id_means_that_one_only(self, store):
        damage(store, layout.manifest_key(CheckpointId(40, 2)))
        with pytest.raises(CorruptError, match="step-00000040"):
            select_verified(store, "step-00000040.inc-000002", lambda r: None)

    def test_all_damaged(self, store):
        for info in store.list("commits/"):
            damage(store, info.key)
        with pytest.raises(CorruptError, match="all 5 committed"):
            select_verified(store, "latest", lambda r: None)


@pytest.mark.parametrize(
    ("text", "run", "which"),
    [
        ("demo", "demo", None),
        ("demo@latest", "demo", "latest"),
        ("run.yaml@30", "run.yaml", "30"),
        ("s3://bucket/runs/demo@best", "s3://bucket/runs/demo", "best"),
        ("/data/me@work/run.yaml", "/data/me@work/run.yaml", None),
        ("a@b@step-00000030.inc-000001", "a@b", "step-00000030.inc-000001"),
    ],
)
def test_a_target_and_what_of_it(text, run, which):
    assert split_target(text) == (run, which)


@pytest.mark.parametrize("text", ["demo@", "demo@x", "@latest", "a@b", "demo@latest "])
def test_a_target_with_something_else_behind_the_at(text):
    with pytest.raises(SpecError, match="is not the id of a checkpoint"):
        split_target(text)

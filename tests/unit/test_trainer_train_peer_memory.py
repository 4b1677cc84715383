"""When a run goes on from its nodes' memory, and when rather from storage."""

import shutil
from types import SimpleNamespace

import pytest

from clip_testkit import history
from clip_testkit.rankwork import checkpointer_of, group_of, trained_parts
from clip_testkit.shards import write_dataset
from clip_testkit.trainhere import Alone, no_metrics, train_generations_here
from clip_testkit.training import write_config
from clip_trainer.checkpoint.incarnation import allocate
from clip_trainer.checkpoint.memory_shares import MemoryShares, SnapshotId
from clip_trainer.config import load_config
from clip_trainer.train import peer_memory
from clip_trainer.train.events import read_events
from clipctl.contract import layout
from clipctl.contract.failpoints import armed
from clipctl.contract.store import open_store
from clipctl.contract.store_local import LocalStore


class TestTheNewest:
    @pytest.fixture
    def run(self, tmp_path):
        """A run whose present incarnation is the fourth."""
        store = LocalStore(tmp_path)
        for number in range(1, 5):
            assert allocate(store, attempt=1, world=1, now=float(number)) == number
        return SimpleNamespace(store=store, incarnation=4)

    def test_one_of_the_last_incarnation_that_began(self, run):
        run.store.write(layout.events_key(2, 0), b"{}\n")
        assert peer_memory._is_newest(run, SnapshotId(2, 10, 2))

    def test_not_one_of_a_branch_that_was_given_up(self, run):
        run.store.write(layout.events_key(3, 0), b"{}\n")
        assert not peer_memory._is_newest(run, SnapshotId(2, 10, 2))

    def test_what_the_present_incarnation_has_said_does_not_matter(self, run):
        run.store.write(layout.events_key(4, 0), b"{}\n")
        assert peer_memory._is_newest(run, SnapshotId(3, 10, 2))

    @pytest.mark.parametrize(("step", "used"), [(9, False), (10, True), (11, True)])
    def test_not_one_from_before_a_commit(self, run, step, used):
        checkpointer_of(run.store, group_of(0, 1), incarnation=4).save(10, 100, trained_parts(0), {}, {})
        assert peer_memory._is_newest(run, SnapshotId(3, step, 2)) == used


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train 8 steps, sharded, losing a peer at the update of step 6; returns what it did and its ledger."""
    no_metrics(monkeypatch.setattr)
    monkeypatch.setattr("clip_trainer.train.generations.is_peer_loss", lambda error: "says so" in str(error))
    monkeypatch.setenv("CLIPCTL_MEMORY", str(tmp_path / "memory"))
    write_dataset(tmp_path / "data", [20, 10])

    def run(before=lambda number: None, **checkpoint):
        changes = {"train": {"parallel": "fsdp"}, "checkpoint": {"every_steps": 4, "memory_steps": 5, **checkpoint}}
        config = write_config(tmp_path, "run", str(tmp_path / "data"), scale={"nodes": {"max": 1}}, **changes)
        membership = Alone(before)
        with armed("train.before_update=raise@6"):
            train_generations_here(config, membership)
        spec = load_config(config).spec
        assert membership.code == 0
        assert history.judge(open_store(spec.root), spec) == []
        return list(read_events(open_store(spec.root)))

    return run


def origin(events):
    """The checkpoint that the second incarnation came from, and its first own step."""
    second = [event for event in events if event["incarnation"] == 2]
    own = [event["step"] for event in second if event["event"] == "step" and not event.get("copy")]
    return second[0]["resumed_from"], own[0]


def test_a_snapshot_that_is_newer_than_the_newest_checkpoint_is_used(train):
    assert origin(train()) == (None, 6)


def test_a_checkpoint_that_is_newer_than_the_newest_snapshot_is_used(train):
    assert origin(train(memory_steps=3)) == ("step-00000004.inc-000001", 5)


def test_without_snapshots_the_checkpoint_is_used(train, tmp_path):
    assert origin(train(memory_steps=None)) == ("step-00000004.inc-000001", 5)
    assert not (tmp_path / "memory").exists()


def test_with_neither_a_state_the_run_begins_again(train, tmp_path):
    def forget(number):
        if number == 2:
            shutil.rmtree(tmp_path / "memory")
            (tmp_path / "memory").mkdir()

    assert origin(train(forget, every_steps=100)) == (None, 1)


def test_a_lack_of_room_is_told_once_a_group(train, monkeypatch):
    monkeypatch.setattr(MemoryShares, "room", 1000)
    events = train(memory_steps=1)
    told = [event for event in events if event["event"] == "no_snapshots"]
    assert [event["incarnation"] for event in told] == [1, 2]
    assert "of /dev/shm for them and has 0 MiB" in told[0]["message"]
    assert origin(events) == ("step-00000004.inc-000001", 5)


def test_what_changes_of_the_group_have_cost_is_not_forgotten():
    counts = {"grow": 1, "regroup": 3}
    peer_memory._raise_to(counts, {"grow": 2, "regroup": 1, "restart": 1})
    assert counts == {"grow": 2, "regroup": 3, "restart": 1}

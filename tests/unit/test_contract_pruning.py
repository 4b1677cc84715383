"""What `prune` deletes: what the policy does not want, and rests of saves that can never be committed."""

import json

import pytest

from clip_testkit.memorystore import MemoryStore
from clip_testkit.savedrun import damage, save
from clipctl.contract import layout
from clipctl.contract.checkpoint_selector import candidates
from clipctl.contract.commits import list_checkpoints
from clipctl.contract.layout import CheckpointId
from clipctl.contract.pruning import apply, delete_checkpoint, find_orphans, latest_target, plan
from clipctl.contract.retention import KeepPolicy
from clipctl.contract.store import Unfinished

NOW = 1_700_100_000.0
HOUR = 3600.0


def incarnations(store, *ages):
    """Incarnations 1, 2, ... that were begun so many seconds ago."""
    for number, age in enumerate(ages, start=1):
        store.write(layout.incarnation_key(number), json.dumps({"created_at": NOW - age}).encode())


def planned(store):
    rejected = []
    return plan(store, KeepPolicy(last=2), candidates(store), NOW, rejected.append), rejected


class TestCheckpoints:
    @pytest.fixture
    def store(self):
        store = MemoryStore()
        for step in (10, 20, 30, 40):
            save(store, step)
        return store

    def test_those_beyond_the_policy_go_with_all_their_objects(self, store):
        pruning, rejected = planned(store)
        assert [c.step for c in pruning.delete] == [10, 20]
        assert [c.step for c in pruning.keep] == [30, 40]
        assert rejected == []
        apply(store, pruning)
        assert [c.step for c in list_checkpoints(store)] == [30, 40]
        assert not [key for key in store.objects if "step-00000010" in key or "step-00000020" in key]

    def test_planning_deletes_nothing(self, store):
        before = dict(store.objects)
        planned(store)
        assert store.objects == before

    def test_a_damaged_one_that_stays_makes_an_older_one_stay_too(self, store):
        damage(store, layout.manifest_key(CheckpointId(40, 1)))
        pruning, rejected = planned(store)
        assert [c.step for c in pruning.delete] == [10]
        assert [r.checkpoint.step for r in rejected] == [40]

    def test_without_two_intact_ones_nothing_goes(self, store):
        for step in (10, 20, 40):
            damage(store, layout.manifest_key(CheckpointId(step, 1)))
        pruning, rejected = planned(store)
        assert pruning.delete == ()
        assert {r.checkpoint.step for r in rejected} == {10, 20, 40}

    def test_where_latest_points_stays(self, store):
        store.write("LATEST", b"step-00000010.inc-000001\n")
        assert [c.step for c in planned(store)[0].delete] == [20]
        assert latest_target(store) == CheckpointId(10, 1)

    @pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"step-10", b"../../etc/passwd\n"])
    def test_latest_may_say_anything(self, store, text):
        store.write("LATEST", text)
        assert latest_target(store) is None
        assert [c.step for c in planned(store)[0].delete] == [10, 20]

    def test_the_commit_record_goes_first(self, store):
        """Whoever is killed in between leaves an orphan and no checkpoint that is half there."""
        order = []
        store.delete = lambda key: (order.append(key), MemoryStore.delete(store, key))
        delete_checkpoint(store, CheckpointId(10, 1))
        assert order[0] == "commits/step-00000010.inc-000001.json"
        assert len(order) == 4

    def test_no_more_than_two_are_read(self, store):
        read = []
        store.read = lambda key: (read.append(key), MemoryStore.read(store, key))[1]
        planned(store)
        assert {key[:25] for key in read if key.startswith("checkpoints/")} == {
            "checkpoints/step-00000030", "checkpoints/step-00000040"
        }  # fmt: skip


class TestOrphans:
    @pytest.fixture
    def store(self):
        """Incarnation 1 was fenced off two hours ago, 2 half an hour ago, 3 is the newest."""
        store = MemoryStore()
        incarnations(store, 5 * HOUR, 2 * HOUR, HOUR / 2)
        save(store, 10, 1)
        for incarnation in (1, 2, 3):
            store.write(layout.checkpoint_prefix(CheckpointId(20, incarnation)) + "weights-0", b"rest")
            store.write(f"claims/commits/{CheckpointId(20, incarnation)}.json/abc", b"claim")
        store.write("claims/incarnations/000001.json/abc", b"claim")
        return store

    def keys(self, store, seconds=HOUR):
        return [info.key for info in find_orphans(store, NOW - seconds)]

    def test_only_those_whose_writer_was_fenced_off_long_ago(self, store):
        assert self.keys(store) == [
            "checkpoints/step-00000020/inc-000001/weights-0",
            "claims/commits/step-00000020.inc-000001.json/abc",
            "claims/incarnations/000001.json/abc",
        ]
        assert any("inc-000002" in key for key in self.keys(store, 60))
        assert not any("inc-000003" in key for key in self.keys(store, 0))

    def test_a_committed_one_is_none(self, store):
        save(store, 20, 1)
        assert not any(key.startswith("checkpoints/") for key in self.keys(store))

    def test_one_that_is_committed_while_we_look_is_none(self, store):
        listing = store.list

        def commits_in_between(prefix):
            found = listing(prefix)
            if prefix == layout.CHECKPOINTS:
                save(store, 20, 1)
            return found

        store.list = commits_in_between
        assert not any(key.startswith("checkpoints/") for key in self.keys(store))

    @pytest.mark.parametrize("record", [b"", b"{}", b"[]", b'{"created_at":"x"}', b'{"created_at":null}', b"[" * 90000])
    def test_a_successor_that_does_not_say_since_when_protects(self, store, record):
        store.write(layout.incarnation_key(2), record)
        assert self.keys(store) == []

    def test_a_run_without_a_second_incarnation_has_none(self):
        store = MemoryStore()
        incarnations(store, 9 * HOUR)
        store.write(layout.checkpoint_prefix(CheckpointId(20, 1)) + "weights-0", b"rest")
        assert self.keys(store, 0) == []

    def test_other_objects_are_left_alone(self, store):
        for key in (
            "checkpoints/readme",
            "claims/LATEST/abc",
            "events/inc-000001/000001.jsonl",
            "checkpoints/step-1/inc-1/x",
        ):
            store.write(key, b"x")
        assert not set(self.keys(store, 0)) & {"checkpoints/readme", "claims/LATEST/abc", "checkpoints/step-1/inc-1/x"}

    def test_they_are_deleted(self, store):
        apply(store, planned(store)[0])
        assert self.keys(store) == []
        assert list_checkpoints(store) == [CheckpointId(10, 1)]


def test_unfinished_uploads_go_by_their_age():
    store = MemoryStore()
    old, young = Unfinished("checkpoints/a", "1", NOW - 2 * HOUR), Unfinished("checkpoints/b", "2", NOW - 60)
    store.left = [old, young]
    pruning, _ = planned(store)
    assert pruning.unfinished == (old,)
    apply(store, pruning)
    assert store.left == [young]

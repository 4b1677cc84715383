"""Naming, sharing out and keeping the parts of checkpoints."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.checkpoint import retention
from clip_trainer.checkpoint.incarnation import allocate, check_fence, newest_incarnation
from clip_trainer.checkpoint.retention import Retention
from clip_trainer.checkpoint.tensors import copy_into, partition
from clipctl.contract.commits import list_checkpoints
from clipctl.contract.errors import CorruptError, TryAgainError, UnavailableError
from clipctl.contract.layout import CheckpointId, checkpoint_prefix, commit_key
from clipctl.contract.retention import KeepPolicy
from clipctl.contract.store_local import LocalStore

SIZES = st.dictionaries(st.text("abc.", min_size=1, max_size=6), st.integers(0, 50), max_size=20)


def tensors_of(sizes):
    return {name: torch.zeros(size) for name, size in sizes.items()}


def ids(*steps):
    return [CheckpointId(step, 1) for step in steps]


class TestPartition:
    @given(SIZES, st.integers(1, 7))
    def test_every_tensor_goes_to_exactly_one_rank(self, sizes, ranks):
        shares = partition(tensors_of(sizes), ranks)
        assert len(shares) == ranks
        assert sorted(name for share in shares for name in share) == sorted(sizes)

    @given(SIZES, st.integers(1, 7))
    def test_no_rank_has_more_than_the_fair_share_plus_one_tensor(self, sizes, ranks):
        loads = [sum(sizes[name] for name in share) for share in partition(tensors_of(sizes), ranks)]
        assert max(loads) <= sum(sizes.values()) / ranks + max(sizes.values(), default=0)

    @given(SIZES, st.integers(1, 7), st.randoms(use_true_random=False))
    def test_ranks_agree_whatever_order_their_dictionaries_have(self, sizes, ranks, random):
        items = list(sizes.items())
        random.shuffle(items)
        assert partition(tensors_of(dict(items)), ranks) == partition(tensors_of(sizes), ranks)

    def test_it_balances_bytes_and_not_numbers(self):
        tensors = {"big": torch.zeros(100), **{f"small{i}": torch.zeros(25) for i in range(4)}}
        assert partition(tensors, 2) == [["big"], ["small0", "small1", "small2", "small3"]]


class TestCopyInto:
    def test_in_place(self):
        target = {"a": torch.zeros(2)}
        alias = target["a"]
        assert copy_into(target, {"a": torch.ones(2)}) == []
        assert alias.tolist() == [1.0, 1.0]

    @pytest.mark.parametrize(
        ("source", "problem"),
        [
            ({}, "a is missing"),
            ({"a": torch.ones(2), "b": torch.ones(1)}, "b is unexpected"),
            ({"a": torch.ones(3)}, "a has shape (3,) instead of (2,)"),
        ],
    )
    def test_what_does_not_fit_changes_nothing(self, source, problem):
        target = {"a": torch.zeros(2)}
        assert copy_into(target, source) == [problem]
        assert target["a"].tolist() == [0.0, 0.0]


class TestRetention:
    @pytest.fixture
    def store(self, tmp_path):
        return LocalStore(tmp_path)

    def make(self, store, *steps):
        for checkpoint in ids(*steps):
            store.write(checkpoint_prefix(checkpoint) + "weights", b"x")
            store.write(commit_key(checkpoint), b"record")

    def retain(self, store, monkeypatch, keep, damaged=()):
        reports, verified = [], []

        def verify(_, checkpoint):
            verified.append(checkpoint)
            if checkpoint in ids(*damaged):
                raise CorruptError("a byte is wrong")

        monkeypatch.setattr(retention, "verify", verify)
        return Retention(KeepPolicy(last=keep), reports.append), reports, verified

    def test_old_ones_go_with_all_their_objects(self, store, monkeypatch):
        policy, reports, _ = self.retain(store, monkeypatch, 2)
        self.make(store, 1, 2, 3, 4)
        policy.apply(store)
        assert list_checkpoints(store) == ids(3, 4)
        assert not [info for info in store.list("checkpoints/") if "step-00000001" in info.key]
        assert reports == []

    def test_few_ones_are_not_even_read(self, store, monkeypatch):
        policy, _, verified = self.retain(store, monkeypatch, 3)
        self.make(store, 1, 2, 3)
        policy.apply(store)
        assert verified == []

    def test_each_is_read_back_once(self, store, monkeypatch):
        policy, _, verified = self.retain(store, monkeypatch, 2)
        self.make(store, 1, 2, 3)
        policy.apply(store)
        self.make(store, 4)
        policy.apply(store)
        assert verified == ids(2, 3, 4)

    def test_a_damaged_one_is_reported_once_and_stops_the_deleting(self, store, monkeypatch):
        policy, reports, _ = self.retain(store, monkeypatch, 2, damaged=[3])
        self.make(store, 1, 2, 3, 4)
        policy.apply(store)
        policy.apply(store)
        assert list_checkpoints(store) == ids(1, 2, 3, 4)
        assert len(reports) == 1
        assert "step-00000003" in reports[0]

    def test_deleting_goes_on_when_enough_good_ones_have_followed(self, store, monkeypatch):
        policy, _, _ = self.retain(store, monkeypatch, 2, damaged=[3])
        self.make(store, 1, 2, 3, 4)
        policy.apply(store)
        self.make(store, 5)
        policy.apply(store)
        assert list_checkpoints(store) == ids(4, 5)

    def test_a_failing_store_never_stops_training(self, store, monkeypatch):
        policy, reports, _ = self.retain(store, monkeypatch, 2)
        self.make(store, 1, 2, 3)

        def refuse(key):
            raise UnavailableError("down.")

        monkeypatch.setattr(store, "delete", refuse)
        policy.tidy(store, CheckpointId(3, 1))
        assert reports == ["old checkpoints were not deleted: down."]

    def test_the_record_goes_first(self, store, monkeypatch):
        """A crash in between leaves orphaned objects, never a record of a checkpoint that is half gone."""
        self.make(store, 1)
        order, delete = [], store.delete
        monkeypatch.setattr(store, "delete", lambda key: (order.append(key), delete(key)))
        retention.delete_checkpoint(store, CheckpointId(1, 1))
        assert order[0].startswith("commits/")
        assert store.list("") == []


class TestIncarnations:
    def test_numbers_go_up_from_one(self, tmp_path):
        store = LocalStore(tmp_path)
        assert newest_incarnation(store) == 0
        assert [allocate(store, attempt=1, world=2, now=1.0) for _ in range(3)] == [1, 2, 3]
        assert newest_incarnation(store) == 3

    def test_contenders_get_different_numbers(self, tmp_path):
        numbers, barrier = [], threading.Barrier(6)

        def contend():
            store = LocalStore(tmp_path)
            barrier.wait()
            numbers.append(allocate(store, attempt=1, world=1, now=1.0))

        threads = [threading.Thread(target=contend) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(numbers) == [1, 2, 3, 4, 5, 6]

    def test_only_the_newest_may_go_on(self, tmp_path):
        store = LocalStore(tmp_path)
        old = allocate(store, attempt=1, world=1, now=1.0)
        check_fence(store, old)
        new = allocate(store, attempt=2, world=1, now=2.0)
        check_fence(store, new)
        with pytest.raises(TryAgainError, match="incarnation 1 is fenced off: incarnation 2 owns"):
            check_fence(store, old)

    def test_foreign_objects_are_no_incarnations(self, tmp_path):
        store = LocalStore(tmp_path)
        store.write("incarnations/notes.txt", b"")
        assert allocate(store, attempt=1, world=1, now=1.0) == 1

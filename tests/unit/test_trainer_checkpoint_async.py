"""Saving beside training: what may go on, what is waited for, and who hears of the outcome."""

import threading

import pytest
import torch

from clip_testkit.faultystore import Fault, FaultyStore
from clip_testkit.memorystore import MemoryStore
from clip_testkit.tinystate import begin, incarnate, newest_state, same, saver, state_at
from clip_trainer.checkpoint.copying import AT_ONCE_BYTES
from clip_trainer.checkpoint.save import Saved, SaveFailed
from clipctl.contract.commits import list_checkpoints, read_commit, read_manifest, verify
from clipctl.contract.errors import InternalError, TryAgainError, UnavailableError
from clipctl.contract.layout import CheckpointId, commit_key


class SlowStore(MemoryStore):
    """Takes no object until `go` is set; says when it was asked to."""

    def __init__(self):
        super().__init__()
        self.asked, self.go = threading.Event(), threading.Event()

    def write_parts(self, key, parts, size):
        self.asked.set()
        self.go.wait()
        super().write_parts(key, parts, size)


def fresh(kind=MemoryStore):
    store = kind()
    incarnate(store)
    return store


def saved(store, checkpoint):
    """Whether the newest checkpoint is this one, with the state of its step."""
    rejected = []
    found = newest_state(store, rejected)
    return rejected == [] and found[0] == checkpoint and same(found[1], state_at(checkpoint.step))


class TestBesideTraining:
    def test_start_does_not_wait_for_storage(self):
        store = fresh(SlowStore)
        checkpointer = saver(store)
        begin(checkpointer, 5)
        store.asked.wait()
        assert checkpointer.busy
        assert checkpointer.poll() == []
        assert not checkpointer.wait(0.0)
        store.go.set()
        assert checkpointer.wait()
        assert not checkpointer.busy
        assert saved(store, CheckpointId(5, 1))

    def test_the_state_may_change_as_soon_as_start_returns(self):
        store = fresh(SlowStore)
        checkpointer, parts, state, metrics = saver(store), state_at(5), {"list": [1]}, {"loss": 1.0}
        checkpointer.start(5, 60, parts, state, metrics)
        for tensors in parts.values():
            for tensor in tensors.values():
                tensor.zero_()
        state["list"].append(2)
        metrics["loss"] = 9.0
        store.go.set()
        checkpointer.wait()
        assert saved(store, CheckpointId(5, 1))
        record = read_commit(store, CheckpointId(5, 1))
        assert record.metrics == {"loss": 1.0}
        assert read_manifest(store, record).state == {"list": [1]}

    def test_begin_copies_beside_the_next_step_until_before_update(self):
        store, go = fresh(), threading.Event()
        big = torch.ones(AT_ONCE_BYTES)

        class Source(torch.Tensor):
            """Cannot be read until `go` is set."""

            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                if function is torch.Tensor.copy_:
                    go.wait()
                return super().__torch_function__(function, types, args, kwargs or {})

        checkpointer, passed = saver(store), threading.Event()
        checkpointer.begin(5, 60, {"weights": {"big": big.as_subclass(Source)}}, {}, {})

        def update():
            checkpointer.before_update()
            big.zero_()
            passed.set()

        thread = threading.Thread(target=update)
        thread.start()
        assert not passed.is_set()
        go.set()
        thread.join()
        checkpointer.wait()
        _, parts = newest_state(store, [])
        assert parts["weights"]["big"].unique().tolist() == [1.0]

    def test_before_update_without_a_save(self):
        saver(fresh()).before_update()

    def test_a_save_in_flight_is_waited_for_by_the_next(self):
        store = fresh(SlowStore)
        checkpointer, second = saver(store), threading.Event()
        begin(checkpointer, 5)
        store.asked.wait()

        def next_one():
            begin(checkpointer, 10)
            second.set()

        thread = threading.Thread(target=next_one)
        thread.start()
        assert not second.is_set()
        store.go.set()
        thread.join()
        checkpointer.wait()
        assert [outcome.checkpoint.step for outcome in checkpointer.poll()] == [5, 10]
        for checkpoint in list_checkpoints(store):
            verify(store, checkpoint)
        assert read_commit(store, CheckpointId(10, 1)).parent == "step-00000005.inc-000001"

    def test_the_buffer_is_made_ready_and_then_used_again(self):
        store = fresh()
        checkpointer = saver(store)
        checkpointer.prepare(state_at(1))
        capacity, pointers = None, set()
        for step in (5, 10, 15):
            begin(checkpointer, step)
            checkpointer.prepare(state_at(1))  # nothing, while a save is in flight or there is room
            checkpointer.wait()
            capacity = capacity or checkpointer._staging.capacity
            pointers.add(checkpointer._staging.room(1).data_ptr())
        assert len(pointers) == 1
        assert checkpointer._staging.capacity == capacity


class TestOutcomes:
    def test_a_save_is_reported_once(self):
        store = fresh()
        checkpointer = saver(store)
        assert checkpointer.poll() == []
        begin(checkpointer, 5)
        checkpointer.wait()
        size = sum(len(d) for k, d in store.objects.items() if k.endswith(".safetensors"))
        assert checkpointer.poll() == [Saved(CheckpointId(5, 1), 0.0, size)]
        assert checkpointer.poll() == []
        assert checkpointer.last == CheckpointId(5, 1)

    def test_a_failure_is_reported_and_the_next_save_works(self):
        store = fresh()
        checkpointer = saver(FaultyStore(store, Fault.REFUSED, at=0))
        begin(checkpointer, 5)
        checkpointer.wait()
        (failed,) = checkpointer.poll()
        assert isinstance(failed, SaveFailed)
        assert failed.checkpoint == CheckpointId(5, 1)
        assert isinstance(failed.error, UnavailableError)
        assert failed.error.problem.startswith("checkpoint step-00000005.inc-000001 was not stored: storage is gone")
        assert checkpointer.last is None
        begin(checkpointer, 10)
        checkpointer.wait()
        assert saved(store, CheckpointId(10, 1))

    def test_a_bug_is_reported_too(self, monkeypatch):
        store = fresh()

        def broken(key, parts, size):
            raise ZeroDivisionError("oh")

        monkeypatch.setattr(store, "write_parts", broken)
        checkpointer = saver(store)
        begin(checkpointer, 5)
        checkpointer.wait()
        (failed,) = checkpointer.poll()
        assert isinstance(failed.error, InternalError)
        assert "ZeroDivisionError: oh" in failed.error.problem

    def test_only_rank_0_hears_of_a_commit(self):
        store = fresh()
        ranks = [saver(store, rank=rank, world=3) for rank in range(3)]
        for checkpointer in reversed(ranks):
            begin(checkpointer, 5)
        for checkpointer in ranks:
            checkpointer.wait()
        assert [len(checkpointer.poll()) for checkpointer in ranks] == [1, 0, 0]
        assert [checkpointer.last for checkpointer in ranks] == [CheckpointId(5, 1), None, None]
        assert saved(store, CheckpointId(5, 1))
        assert read_commit(store, CheckpointId(5, 1)).world_size == 3

    def test_a_rank_says_which_it_is(self):
        checkpointer = saver(FaultyStore(fresh(), Fault.REFUSED, at=0), rank=1, world=2)
        begin(checkpointer, 5)
        checkpointer.wait()
        assert "was not stored: rank 1: storage is gone" in checkpointer.poll()[0].error.problem

    def test_trouble_after_the_commit_is_told_and_changes_nothing(self):
        store, told = fresh(), []
        at = 6  # LATEST: after two objects, share, manifest, fence, commit
        checkpointer = saver(FaultyStore(store, Fault.DEAD_BEFORE, at), report=told.append)
        begin(checkpointer, 5)
        checkpointer.wait()
        assert isinstance(checkpointer.poll()[0], Saved)
        assert [text.partition(":")[0] for text in told] == [
            "LATEST was not moved to step-00000005.inc-000001",
            "old checkpoints were not deleted",
            "what failed saves have left was not deleted",
        ]


class TestGroupsThatChange:
    def waiting_for_a_share(self):
        """A store and rank 0 of 2, which has stored its share and waits for that of rank 1."""
        store = fresh()
        checkpointer = saver(store, rank=0, world=2)
        begin(checkpointer, 5)
        return store, checkpointer

    def test_an_abandoned_save_is_not_committed_and_has_no_outcome(self):
        store, checkpointer = self.waiting_for_a_share()
        checkpointer.abandon()
        assert checkpointer.wait()
        assert checkpointer.poll() == []
        assert list_checkpoints(store) == []
        assert checkpointer.last is None

    def test_a_share_that_comes_too_late_commits_nothing(self):
        store, checkpointer = self.waiting_for_a_share()
        checkpointer.abandon()
        late = saver(store, rank=1, world=2)
        begin(late, 5)
        late.wait()
        checkpointer.wait()
        assert list_checkpoints(store) == []

    def test_abandoning_in_the_middle_of_an_upload(self):
        store = fresh(SlowStore)
        checkpointer = saver(store)
        begin(checkpointer, 5)
        store.asked.wait()
        checkpointer.abandon()
        store.go.set()
        checkpointer.wait()
        assert list_checkpoints(store) == []
        assert checkpointer.poll() == []
        assert not any("share" in key or "manifest" in key for key in store.objects)

    def test_the_next_group_saves_the_same_step_with_other_ranks(self):
        store, checkpointer = self.waiting_for_a_share()
        checkpointer.abandon()
        checkpointer._group.become(0, 1)
        begin(checkpointer, 5)
        checkpointer.wait()
        assert [outcome.checkpoint for outcome in checkpointer.poll()] == [CheckpointId(5, 1)]
        assert saved(store, CheckpointId(5, 1))

    def test_a_save_goes_on_with_the_ranks_it_began_with(self):
        store, checkpointer = self.waiting_for_a_share()
        checkpointer._group.become(0, 3)
        other = saver(store, rank=1, world=2)
        begin(other, 5)
        other.wait()
        checkpointer.wait()
        assert read_commit(store, CheckpointId(5, 1)).world_size == 2
        assert saved(store, CheckpointId(5, 1))

    def test_abandoning_nothing(self):
        checkpointer = saver(fresh())
        checkpointer.abandon()
        begin(checkpointer, 5)
        checkpointer.wait()
        assert len(checkpointer.poll()) == 1

    def test_a_new_incarnation(self):
        from dataclasses import replace

        store = fresh()
        checkpointer = saver(store)
        checkpointer.identity = replace(checkpointer.identity, incarnation=incarnate(store))
        begin(checkpointer, 5)
        checkpointer.wait()
        assert saved(store, CheckpointId(5, 2))

    def test_a_fenced_one_is_told_to_stop(self):
        store = fresh()
        checkpointer = saver(store)
        incarnate(store)
        begin(checkpointer, 5)
        checkpointer.wait()
        assert isinstance(checkpointer.poll()[0].error, TryAgainError)


class TestLineage:
    def test_a_checkpoint_knows_the_one_before(self):
        store = fresh()
        checkpointer = saver(store)
        checkpointer.continue_from(CheckpointId(2, 1))
        for step in (5, 10):
            begin(checkpointer, step)
        checkpointer.wait()
        parents = [read_commit(store, CheckpointId(step, 1)).parent for step in (5, 10)]
        assert parents == ["step-00000002.inc-000001", "step-00000005.inc-000001"]

    def test_after_going_back_a_save_from_before_is_no_parent(self):
        store = fresh(SlowStore)
        checkpointer = saver(store)
        begin(checkpointer, 10)
        checkpointer.continue_from(CheckpointId(5, 1))  # a roll-back, while the save is in flight
        store.go.set()
        checkpointer.wait()
        assert checkpointer.last == CheckpointId(5, 1)
        begin(checkpointer, 15)
        checkpointer.wait()
        assert read_commit(store, CheckpointId(15, 1)).parent == "step-00000005.inc-000001"


class TestBeforeCommit:
    def test_it_comes_after_the_shares_and_before_the_record(self):
        store, seen = fresh(), []
        checkpointer = saver(store, before_commit=lambda: seen.append(sorted(store.objects)))
        begin(checkpointer, 5)
        checkpointer.wait()
        (keys,) = seen
        assert any("share-00000-of-00001" in key for key in keys)
        assert commit_key(CheckpointId(5, 1)) not in keys
        assert commit_key(CheckpointId(5, 1)) in store.objects

    def test_its_failure_fails_the_save(self):
        def refuse():
            raise UnavailableError("the ledger cannot be stored.")

        store = fresh()
        checkpointer = saver(store, before_commit=refuse)
        begin(checkpointer, 5)
        checkpointer.wait()
        assert "the ledger cannot be stored." in checkpointer.poll()[0].error.problem
        assert list_checkpoints(store) == []

    def test_other_ranks_do_not_do_it(self):
        seen = []
        checkpointer = saver(fresh(), rank=1, world=2, before_commit=lambda: seen.append(1))
        begin(checkpointer, 5)
        checkpointer.wait()
        assert seen == []


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_any_number_of_ranks_makes_the_same_checkpoint(world):
    store = fresh()
    ranks = [saver(store, rank=rank, world=world) for rank in range(world)]
    for checkpointer in ranks:
        begin(checkpointer, 5)
    for checkpointer in ranks:
        assert checkpointer.wait()
    assert saved(store, CheckpointId(5, 1))

"""Whatever happens at whatever operation of a save: the newest committed checkpoint is whole and what it says it is."""

from itertools import count

import pytest

from clip_testkit.faultystore import Fault, FaultyStore
from clip_testkit.memorystore import MemoryStore
from clip_testkit.tinystate import begin, incarnate, newest_state, same, saver, state_at
from clip_trainer.checkpoint.save import Saved, SaveFailed
from clipctl.contract.commits import list_checkpoints, verify
from clipctl.contract.errors import TryAgainError
from clipctl.contract.failpoint_names import NAMES
from clipctl.contract.failpoints import armed
from clipctl.contract.layout import LATEST, CheckpointId

BOTH = [Fault.DEAD_BEFORE, Fault.DEAD_AFTER]


def finished(checkpointer, step):
    begin(checkpointer, step)
    assert checkpointer.wait()
    return checkpointer.poll()


def with_two_saved():
    """A store with the checkpoints of steps 5 and 10, of incarnation 1."""
    store = MemoryStore()
    checkpointer = saver(store, incarnate(store))
    for step in (5, 10):
        assert isinstance(finished(checkpointer, step)[0], Saved)
    return store


def check_newest(store, *steps):
    """The newest committed checkpoint is of one of `steps`, nothing is damaged, and it has the values of its step."""
    rejected = []
    checkpoint, parts = newest_state(store, rejected)
    assert rejected == []
    assert checkpoint.step in steps
    assert same(parts, state_at(checkpoint.step))
    return checkpoint


def operations_of_a_save():
    store = FaultyStore(with_two_saved())
    finished(saver(store, incarnation=1), 15)
    return store.done


def test_a_save_has_operations_worth_failing_at():
    done = [line.partition(" ")[0] for line in operations_of_a_save()]
    assert {"write_parts", "write", "create", "replace", "list", "delete"} <= set(done)
    assert len(done) > 20


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_at_every_operation(fault):
    for at in count():
        store = with_two_saved()
        faulty = FaultyStore(store, fault, at)
        outcomes = finished(saver(faulty, incarnation=1), 15)
        if not faulty.fired:
            assert at == len(operations_of_a_save())
            break
        newest = check_newest(store, 10, 15)
        if isinstance(outcomes[0], Saved):
            assert newest.step == 15
        for checkpoint in list_checkpoints(store):
            verify(store, checkpoint)

        # A group that takes over saves, and then there is nothing left of the accident.
        assert isinstance(finished(saver(store, incarnate(store)), 20)[0], Saved)
        check_newest(store, 20)
        committed = {checkpoint.step for checkpoint in list_checkpoints(store)}
        kept = {int(info.key.split("/")[1].removeprefix("step-")) for info in store.list("checkpoints/")}
        assert kept == committed
        assert len(committed) == 2


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.ANSWER_LOST])
def test_the_same_group_saves_again_after_a_fault_at_every_operation(fault):
    for at in count():
        store = with_two_saved()
        faulty = FaultyStore(store, fault, at)
        checkpointer = saver(faulty, incarnation=1)
        finished(checkpointer, 15)
        if not faulty.fired:
            break
        assert isinstance(finished(checkpointer, 20)[0], Saved)
        assert checkpointer.last == CheckpointId(20, 1)
        check_newest(store, 20)


@pytest.mark.parametrize("fault", BOTH)
@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_either_rank_at_every_operation(fault, victim):
    for at in count():
        store = with_two_saved()
        faulty = FaultyStore(store, fault, at)
        stores = [faulty if rank == victim else store for rank in range(2)]
        ranks = [saver(stores[rank], 1, rank=rank, world=2) for rank in range(2)]
        begin(ranks[1], 15)
        assert ranks[1].wait()
        share_is_there = any("share-00001-of-00002" in info.key for info in store.list("checkpoints/"))
        begin(ranks[0], 15)
        if not share_is_there:  # the others hear of the loss, and give up
            ranks[0].abandon()
        assert ranks[0].wait()
        if not faulty.fired:
            break
        newest = check_newest(store, 10, 15)
        assert share_is_there or newest.step == 10
        assert isinstance(finished(saver(store, incarnate(store)), 20)[0], Saved)
        check_newest(store, 20)


def test_a_lost_answer_to_the_commit_does_not_lose_the_checkpoint():
    at = next(i for i, line in enumerate(operations_of_a_save()) if line.startswith("create commits/"))
    store = with_two_saved()
    checkpointer = saver(FaultyStore(store, Fault.ANSWER_LOST, at), incarnation=1)
    assert isinstance(finished(checkpointer, 15)[0], Saved)
    assert checkpointer.last == CheckpointId(15, 1)


@pytest.mark.parametrize("name", sorted(name for name in NAMES if name.startswith("checkpoint.")))
def test_every_failpoint_is_reached_and_survived(name):
    store = with_two_saved()
    store.write("checkpoints/step-00000007/inc-000001/weights", b"left by a save that failed")
    checkpointer = saver(store, incarnation=1)
    with armed(f"{name}=error:unavailable@1") as fired:
        try:
            outcomes = finished(checkpointer, 15)
        except Exception as error:  # the first one is on the thread that trains
            assert name == "checkpoint.begin"
            outcomes = [SaveFailed(CheckpointId(15, 1), error)]
    assert fired == [name]
    newest = check_newest(store, 10, 15)
    assert (newest.step == 15) == isinstance(outcomes[0], Saved)
    assert isinstance(finished(checkpointer, 20)[0], Saved)
    check_newest(store, 20)
    assert not any("step-00000007" in info.key for info in store.list("checkpoints/"))


class TestTwoWriters:
    """A group that was taken for dead lives on beside its successor."""

    def groups(self):
        store = with_two_saved()
        return store, saver(store, 1), saver(store, incarnate(store))

    def test_the_old_one_cannot_commit(self):
        store, old, new = self.groups()
        (failed,) = finished(old, 15)
        assert isinstance(failed.error, TryAgainError)
        assert "incarnation 2 owns the run" in failed.error.problem
        assert isinstance(finished(new, 15)[0], Saved)
        assert check_newest(store, 15) == CheckpointId(15, 2)

    @pytest.mark.parametrize("step", [15, 20])
    def test_one_that_passed_the_fence_in_time_does_not_move_latest_back(self, step, monkeypatch):
        store, old, new = self.groups()
        monkeypatch.setattr("clip_trainer.checkpoint.committing.check_fence", lambda store, incarnation: None)
        assert isinstance(finished(new, 15)[0], Saved)
        finished(old, step)
        assert store.read(LATEST) == b"step-00000015.inc-000002\n"

    def test_interleaved_at_every_operation_of_the_old_one(self):
        """The old group stops before an operation, the new one saves, the old one goes on."""
        for at in range(1000):
            store, old, new = self.groups()
            store.delete("incarnations/000002.json")  # the successor comes in the middle
            outcomes = []

            class Stopping(FaultyStore):
                def _pass(self, name, operation, at=at, store=store, new=new, outcomes=outcomes):
                    if len(self.done) == at:
                        incarnate(store)
                        outcomes.append(finished(new, 15)[0])
                    return super()._pass(name, operation)

            stopping = Stopping(store)
            old._store = stopping
            finished(old, 15)
            if not outcomes:
                break
            assert isinstance(outcomes[0], Saved)
            assert check_newest(store, 15) == CheckpointId(15, 2)
            assert store.read(LATEST) == b"step-00000015.inc-000002\n"
        assert at > 20

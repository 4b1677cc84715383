"""The commit: manifest, fence, record, LATEST; each in its order, and only once."""

import pytest

from clip_testkit.faultystore import Fault, FaultyStore
from clip_testkit.memorystore import MemoryStore
from clip_testkit.tinystate import incarnate
from clip_trainer.checkpoint.background import AbandonedError
from clip_trainer.checkpoint.committing import commit, move_latest
from clipctl.contract.commits import CommitRecord, Manifest, read_commit, read_manifest
from clipctl.contract.errors import TryAgainError, UnavailableError
from clipctl.contract.layout import LATEST, CheckpointId, commit_key

MANIFEST = Manifest((), {"some": "state"})
ID = CheckpointId(5, 1)


def record(writer="me", incarnation=1, step=5):
    return CommitRecord("demo", step, incarnation, 1, 60, 1, "", 0, "spec", "training", None, 1.0, writer)


def fresh():
    store = MemoryStore()
    incarnate(store)
    return store


def committed(store, **which):
    return commit(store, record(**which), MANIFEST, lambda: None)


class TestCommit:
    def test_the_record_names_the_manifest(self):
        store = fresh()
        stored = committed(store)
        assert read_commit(store, ID) == stored
        assert read_manifest(store, stored) == MANIFEST

    def test_the_order(self):
        store = FaultyStore(fresh())
        asked = []
        commit(store, record(), MANIFEST, lambda: asked.append(len(store.done)))
        kinds = [line.split("/")[0] for line in store.done]
        assert kinds == ["write checkpoints", "list incarnations", "create commits"]
        assert asked == [2]  # the last thing before the record

    def test_one_that_is_given_up_is_not_created(self):
        store = fresh()

        def give_up():
            raise AbandonedError("enough")

        with pytest.raises(AbandonedError):
            commit(store, record(), MANIFEST, give_up)
        assert commit_key(ID) not in store.objects

    def test_a_newer_incarnation_owns_the_run(self):
        store = fresh()
        incarnate(store)
        with pytest.raises(TryAgainError, match="fenced off"):
            committed(store)
        assert commit_key(ID) not in store.objects

    def test_somebody_elses_record_stays(self):
        store = fresh()
        theirs = committed(store, writer="them")
        with pytest.raises(TryAgainError, match="committed by somebody else"):
            committed(store, writer="me")
        assert read_commit(store, ID) == theirs

    def test_the_same_record_is_ours(self):
        """A service may carry a request out, lose the answer, and refuse the repetition."""
        store = fresh()
        assert committed(store) == committed(store)

    @pytest.mark.parametrize(("fault", "is_there"), [(Fault.ANSWER_LOST, True), (Fault.REFUSED, False)])
    def test_an_error_of_the_request_is_checked_by_reading(self, fault, is_there):
        store = fresh()
        faulty = FaultyStore(store, fault, at=2)
        if is_there:
            assert committed(faulty) == read_commit(store, ID)
        else:
            with pytest.raises(UnavailableError, match="create commits/"):
                committed(faulty)
        assert (commit_key(ID) in store.objects) is is_there

    def test_an_error_with_somebody_elses_record_is_an_error(self):
        store = fresh()
        committed(store, writer="them")
        with pytest.raises(UnavailableError):
            committed(FaultyStore(store, Fault.REFUSED, at=2), writer="me")


class TestLatest:
    @pytest.mark.parametrize(
        ("there", "new", "moves"),
        [
            (None, CheckpointId(5, 1), True),
            (b"step-00000005.inc-000001\n", CheckpointId(10, 1), True),
            (b"step-00000010.inc-000001\n", CheckpointId(5, 1), False),
            (b"step-00000010.inc-000001\n", CheckpointId(5, 2), True),  # resumed from an older one
            (b"step-00000005.inc-000002\n", CheckpointId(10, 1), False),  # taken over meanwhile
            (b"damaged \xff", CheckpointId(5, 1), True),
        ],
    )
    def test_newer_incarnations_win_then_newer_steps(self, there, new, moves):
        store = MemoryStore({} if there is None else {LATEST: there})
        assert move_latest(store, new) is moves
        assert store.objects[LATEST] == (f"{new}\n".encode() if moves else there)

    def test_again_is_no_step_back(self):
        store = MemoryStore()
        assert move_latest(store, ID)
        assert move_latest(store, ID)

    @pytest.mark.parametrize("first", [None, b"step-00000001.inc-000001\n"])
    def test_whoever_is_faster_is_looked_at_again(self, first, monkeypatch):
        store = MemoryStore({} if first is None else {LATEST: first})
        real, reads = store.read_version, []

        def read_version(key):
            found = real(key)
            reads.append(key)
            if len(reads) == 1:
                store.write(LATEST, b"step-00000002.inc-000001\n")
            return found

        monkeypatch.setattr(store, "read_version", read_version)
        assert move_latest(store, ID)
        assert store.objects[LATEST] == f"{ID}\n".encode()
        assert len(reads) > 1

    def test_it_does_not_fight_for_ever(self, monkeypatch):
        store = MemoryStore({LATEST: b"step-00000001.inc-000001\n"})
        monkeypatch.setattr(store, "replace", lambda key, data, version: False)
        assert not move_latest(store, ID)

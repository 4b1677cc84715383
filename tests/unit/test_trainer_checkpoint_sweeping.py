"""Orphans: only what no commit names and none ever will."""

from clip_testkit.memorystore import MemoryStore
from clip_trainer.checkpoint.sweeping import sweep
from clipctl.contract.layout import CheckpointId, checkpoint_prefix, commit_key
from clipctl.contract.store import Unfinished


def put(store, checkpoint, *, committed):
    store.write(f"{checkpoint_prefix(checkpoint)}weights", b"x")
    store.write(f"{checkpoint_prefix(checkpoint)}manifest.json", b"x")
    if committed:
        store.write(commit_key(checkpoint), b"x")


def left(store):
    return sorted({key.rsplit("/", 1)[0] for key in store.objects if key.startswith("checkpoints/")})


def folder(checkpoint):
    return checkpoint_prefix(checkpoint).rstrip("/")


def test_what_was_not_committed_goes():
    store = MemoryStore()
    real, orphan, new = CheckpointId(5, 1), CheckpointId(10, 1), CheckpointId(15, 2)
    put(store, real, committed=True)
    put(store, orphan, committed=False)
    put(store, new, committed=True)
    assert sweep(store, new) == 2
    assert left(store) == sorted([folder(real), folder(new)])
    assert sweep(store, new) == 0


def test_an_earlier_try_of_the_same_step_goes():
    store = MemoryStore()
    put(store, CheckpointId(15, 1), committed=False)
    put(store, CheckpointId(15, 2), committed=True)
    sweep(store, CheckpointId(15, 2))
    assert left(store) == [folder(CheckpointId(15, 2))]


def test_what_is_ahead_stays():
    """An older group that still lives may commit it; a damaged newest checkpoint would be worse than a few files."""
    store = MemoryStore()
    put(store, CheckpointId(20, 1), committed=False)
    put(store, CheckpointId(15, 3), committed=False)
    put(store, CheckpointId(15, 2), committed=True)
    assert sweep(store, CheckpointId(15, 2)) == 0
    assert left(store) == sorted(map(folder, [CheckpointId(15, 2), CheckpointId(15, 3), CheckpointId(20, 1)]))


def test_what_is_committed_while_it_lists_stays(monkeypatch):
    store, late = MemoryStore(), CheckpointId(10, 1)
    put(store, late, committed=False)
    put(store, CheckpointId(15, 2), committed=True)
    real = store.list

    def listing(prefix):
        found = real(prefix)
        if prefix == "checkpoints/":
            store.write(commit_key(late), b"x")
        return found

    monkeypatch.setattr(store, "list", listing)
    assert sweep(store, CheckpointId(15, 2)) == 0
    assert folder(late) in left(store)


def test_foreign_objects_stay():
    store = MemoryStore({"checkpoints/notes.txt": b"x", "checkpoints/step-00000001/readme": b"x"})
    assert sweep(store, CheckpointId(15, 2)) == 0
    assert len(store.objects) == 2


def test_uploads_that_were_cut_off_are_discarded_if_they_are_old():
    store = MemoryStore()
    old = Unfinished(f"{checkpoint_prefix(CheckpointId(10, 1))}weights", "1", 0.0)
    folder_only = Unfinished(checkpoint_prefix(CheckpointId(5, 1)), "2", 0.0)
    ahead = Unfinished(f"{checkpoint_prefix(CheckpointId(20, 2))}weights", "3", 0.0)
    store.left = [old, folder_only, ahead]
    assert sweep(store, CheckpointId(15, 2)) == 2
    assert store.left == [ahead]

"""Reading checkpoints: both versions of the format, and nothing that is not verified."""

import pytest
import torch

from clip_testkit.faultystore import FaultyStore
from clip_testkit.memorystore import MemoryStore
from clip_testkit.tinystate import begin, incarnate, same, saver, state_at
from clip_trainer.checkpoint.reading import open_checkpoint
from clip_trainer.model.interchange import to_bytes
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject, TensorEntry
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import CorruptError, MissingError
from clipctl.contract.layout import CheckpointId

ID = CheckpointId(5, 1)


def of_version_2(world=2):
    store = MemoryStore()
    incarnate(store)
    ranks = [saver(store, rank=rank, world=world) for rank in range(world)]
    for checkpointer in ranks:
        begin(checkpointer, 5)
    for checkpointer in ranks:
        checkpointer.wait()
    return store


def commit(store, manifest):
    data = manifest.to_bytes()
    store.write(layout.manifest_key(ID), data)
    record = CommitRecord("demo", 5, 1, 1, 60, 1, sha256_hex(data), 0, "spec", "training", None, 1.0, "me")
    store.write(layout.commit_key(ID), record.to_bytes())


def of_version_1():
    """As earlier releases wrote it: whole safetensors files, which the manifest says nothing about."""
    store, objects = MemoryStore(), []
    for part, tensors in state_at(5).items():
        for rank, names in enumerate((list(tensors)[:2], list(tensors)[2:])):
            data = to_bytes({name: tensors[name] for name in names})
            objects.append(StoredObject.of(f"{part}-{rank:05d}-of-00002.safetensors", data))
            store.write(layout.checkpoint_prefix(ID) + objects[-1].name, data)
    commit(store, Manifest(tuple(objects), {"step": 5}, version=1))
    return store


def in_pieces():
    """Version 2 with a sharded tensor [6, 4]: rows 0-1, and of rows 2-5 the left and the right half."""
    whole = torch.arange(24, dtype=torch.float32).reshape(6, 4)
    store, objects = MemoryStore(), []
    pieces = [(slice(0, 2), slice(0, 4)), (slice(2, 6), slice(0, 1)), (slice(2, 6), slice(1, 4))]
    for rank, where in enumerate(pieces):
        piece = whole[where].contiguous()
        data = bytes(8) + piece.numpy().tobytes()
        offsets = tuple(index.start for index in where)
        entry = TensorEntry("F32", tuple(piece.shape), 8, len(data), (6, 4), offsets)
        objects.append(StoredObject.of(f"weights-{rank:05d}-of-00003.safetensors", data, {"table": entry}))
        store.write(layout.checkpoint_prefix(ID) + objects[-1].name, data)
    commit(store, Manifest(tuple(objects), {}))
    return store, whole


@pytest.mark.parametrize("make", [of_version_1, of_version_2])
def test_everything(make):
    opened = open_checkpoint(make(), ID)
    assert opened.id == ID
    assert opened.manifest.state == {"step": 5}
    assert same(opened.read(), state_at(5))


@pytest.mark.parametrize("make", [of_version_1, of_version_2])
def test_only_some_parts(make):
    store = FaultyStore(make())
    parts = open_checkpoint(store, ID).read(["weights"])
    assert same(parts, {"weights": state_at(5)["weights"]})
    assert not any("optimizer" in line for line in store.done)


def test_what_was_read_may_be_changed():
    store = of_version_2()
    open_checkpoint(store, ID).read()["weights"]["big"].zero_()
    assert same(open_checkpoint(store, ID).read(), state_at(5))


def test_pieces_become_whole_tensors():
    store, whole = in_pieces()
    assert torch.equal(open_checkpoint(store, ID).read()["weights"]["table"], whole)


@pytest.mark.parametrize("make", [of_version_1, of_version_2])
def test_every_flipped_byte_is_noticed(make):
    store = make()
    for key in [key for key in store.objects if key.endswith(".safetensors")]:
        data = store.objects[key]
        for at in range(0, len(data), 37):
            store.objects[key] = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
            with pytest.raises(CorruptError):
                open_checkpoint(store, ID).read()
        store.objects[key] = data
    assert same(open_checkpoint(store, ID).read(), state_at(5))


def test_not_committed():
    with pytest.raises(MissingError):
        open_checkpoint(MemoryStore(), ID)

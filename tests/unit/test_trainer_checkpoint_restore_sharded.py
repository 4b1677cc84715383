"""Resuming a sharded run, seen from one rank: which checkpoint, what is read of it, and what is refused."""

import pytest
import torch

from clip_testkit.faultystore import FaultyStore
from clip_testkit.memorystore import MemoryStore
from clip_testkit.rankwork import group_of
from clip_testkit.shardedstate import commit_sharded, rows_of_rank
from clip_testkit.tinystate import same, state_at
from clip_trainer.checkpoint.restore_sharded import restore_sharded
from clip_trainer.parallel.pieces import local
from clipctl.contract.errors import CorruptError, SpecError
from clipctl.contract.layout import CheckpointId, checkpoint_prefix

OLD, NEW = CheckpointId(5, 1), CheckpointId(7, 1)


@pytest.fixture
def store():
    made = FaultyStore(MemoryStore())
    for checkpoint in (OLD, NEW):
        commit_sharded(made, checkpoint, state_at(checkpoint.step), 2, 64)
    made.done.clear()
    return made


def room(shapes, parts=("weights", "optimizer")):
    zeros = {
        part: {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in shapes[part].items()} for part in parts
    }
    return {part: rows_of_rank(tensors, 0, 1) for part, tensors in zeros.items()}


def restored(store, make=room, digest="training", **options):
    rejected = []
    found = restore_sharded(store, group_of(0, 1), make, digest, rejected.append, **options)
    return found, [one.checkpoint for one in rejected]


def damage(store, checkpoint, part):
    key = next(info.key for info in store.list(checkpoint_prefix(checkpoint)) if f"/{part}-" in info.key)
    data = bytearray(store.read(key))
    data[-1] ^= 1
    store.write(key, bytes(data))


def test_the_newest_one(store):
    found, rejected = restored(store)
    assert (found.checkpoint, found.samples_consumed, rejected) == (NEW, 12 * NEW.step, [])
    parts = {part: {name: local(t) for name, t in tensors.items()} for part, tensors in found.tensors.items()}
    assert same(parts, state_at(NEW.step))


def test_only_wanted_ones(store):
    found, _ = restored(store, wanted=lambda checkpoint: checkpoint < NEW)
    assert found.checkpoint == OLD


def test_there_is_none():
    assert restored(MemoryStore()) == (None, [])


def test_a_damaged_one_is_passed_over(store):
    damage(store, NEW, "optimizer")
    found, rejected = restored(store)
    assert (found.checkpoint, rejected) == (OLD, [NEW])


def test_nothing_intact_is_left(store):
    for checkpoint in (OLD, NEW):
        damage(store, checkpoint, "weights")
    with pytest.raises(CorruptError, match="all 2 committed checkpoints"):
        restored(store)


def test_parts_without_room_are_not_read(store):
    damage(store, NEW, "optimizer")
    found, rejected = restored(store, lambda shapes: room(shapes, ["weights"]))
    assert (found.checkpoint, rejected) == (NEW, [])
    assert not any("optimizer" in line for line in store.done if line.startswith("read_range"))


def test_another_model_is_no_damage(store):
    def other(shapes):
        return {"weights": {"big": torch.zeros(40, 6)}}

    with pytest.raises(CorruptError, match="does not fit the model"):
        restored(store, other)


def test_another_training_is_refused(store):
    with pytest.raises(SpecError, match="another model"):
        restored(store, digest="other")

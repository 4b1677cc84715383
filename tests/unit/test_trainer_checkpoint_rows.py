"""What a rank reads of a sharded checkpoint: its own rows, verified, from as few bytes as there can be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit.faultystore import FaultyStore
from clip_testkit.memorystore import MemoryStore
from clip_testkit.shardedstate import commit_sharded, rows_of_rank
from clip_testkit.tinystate import same, state_at
from clip_trainer.checkpoint.reading import open_checkpoint
from clip_trainer.checkpoint.rows import fill, shapes_of
from clip_trainer.parallel.pieces import local, rows_of
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject, TensorEntry
from clipctl.contract.digest import chunk_digests, sha256_hex
from clipctl.contract.errors import CorruptError
from clipctl.contract.layout import CheckpointId

ID = CheckpointId(5, 1)
WHOLE = state_at(5)


def stored_by(world, chunk_bytes=64):
    store = MemoryStore()
    commit_sharded(store, ID, WHOLE, world, chunk_bytes)
    return store


def empty_like(tensors, rank, world):
    return rows_of_rank({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, rank, world)


def filled(store, rank, world):
    """What a rank has after it was filled from the checkpoint."""
    opened = open_checkpoint(store, ID)
    found = {}
    for part, tensors in WHOLE.items():
        target = empty_like(tensors, rank, world)
        fill(opened, part, target, rank, world)
        found[part] = {name: local(tensor) for name, tensor in target.items()}
    return found


def own_rows(rank, world):
    """What it should have."""
    cut = {part: rows_of_rank(tensors, rank, world) for part, tensors in WHOLE.items()}
    return {part: {name: local(tensor) for name, tensor in tensors.items()} for part, tensors in cut.items()}


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 600))
def test_any_number_of_ranks_reads_what_any_other_number_has_stored(before, after, chunk_bytes):
    store = stored_by(before, chunk_bytes)
    for rank in range(after):
        assert same(filled(store, rank, after), own_rows(rank, after))


def test_one_process_reads_it_whole():
    assert same(open_checkpoint(stored_by(3), ID).read(), WHOLE)


def test_shapes_are_those_of_whole_tensors():
    opened = open_checkpoint(stored_by(3), ID)
    assert shapes_of(opened, "weights") == {n: (tuple(t.shape), t.dtype) for n, t in WHOLE["weights"].items()}


def test_as_many_ranks_as_before_read_only_their_own_files():
    """But for tensors that are not sharded, of which each stands in one file."""
    store = FaultyStore(stored_by(3))
    big = {"weights": {"big": WHOLE["weights"]["big"]}}
    opened = open_checkpoint(store, ID)
    store.done.clear()
    fill(opened, "weights", empty_like(big["weights"], 1, 3), 1, 3)
    assert {line.split(" ")[1] for line in store.done} == {
        f"{layout.checkpoint_prefix(ID)}weights-00001-of-00003.safetensors"
    }


class CountingStore(MemoryStore):
    """Notes which bytes were read."""

    def __init__(self, objects):
        super().__init__()
        self.objects.update(objects)
        self.ranges = []

    def read_range(self, key, start, length):
        self.ranges += [(key, at) for at in range(start, start + length)]
        return super().read_range(key, start, length)


@pytest.mark.parametrize("chunk_bytes", [16, 100, 4096])
def test_no_byte_is_read_twice(chunk_bytes):
    store = CountingStore(stored_by(2, chunk_bytes).objects)
    filled(store, 1, 3)
    assert len(store.ranges) == len(set(store.ranges)) > 0


def test_other_rows_are_not_read():
    sizes = []
    for world in (1, 4):
        store = CountingStore(stored_by(1, 16).objects)
        fill(open_checkpoint(store, ID), "weights", empty_like({"big": WHOLE["weights"]["big"]}, 0, world), 0, world)
        sizes.append(len(store.ranges))
    assert sizes[1] < sizes[0] / 3


def in_blocks(chunk_bytes):
    """A tensor [6, 4] cut along both dimensions, as other programs may shard: rows 0-1, and two halves of rows 2-5."""
    whole = torch.arange(24, dtype=torch.float32).reshape(6, 4)
    store, objects = MemoryStore(), []
    for rank, where in enumerate([(slice(0, 2), slice(0, 4)), (slice(2, 6), slice(0, 1)), (slice(2, 6), slice(1, 4))]):
        piece = whole[where].contiguous()
        data = bytes(8) + piece.numpy().tobytes()
        entry = TensorEntry("F32", tuple(piece.shape), 8, len(data), (6, 4), tuple(index.start for index in where))
        name = f"weights-{rank:05d}-of-00003.safetensors"
        digests = tuple(chunk_digests(data, chunk_bytes))
        objects.append(StoredObject(name, len(data), digests, chunk_bytes, {"table": entry}))
        store.write(layout.checkpoint_prefix(ID) + name, data)
    manifest = Manifest(tuple(objects), {}).to_bytes()
    store.write(layout.manifest_key(ID), manifest)
    record = CommitRecord("demo", 5, 1, 1, 60, 1, sha256_hex(manifest), 0, "spec", "training", None, 1.0, "me")
    store.write(layout.commit_key(ID), record.to_bytes())
    return store, whole


@pytest.mark.parametrize("world", [1, 2, 3, 6])
@pytest.mark.parametrize("chunk_bytes", [16, 64])
def test_blocks_are_rows_again(world, chunk_bytes):
    store, whole = in_blocks(chunk_bytes)
    for rank in range(world):
        target = empty_like({"table": whole}, rank, world)
        fill(open_checkpoint(store, ID), "weights", target, rank, world)
        assert torch.equal(local(target["table"]), whole[slice(*rows_of(6, rank, world))])


def test_damage_is_found_by_who_needs_the_bytes():
    store, whole = in_blocks(chunk_bytes=16)
    key = f"{layout.checkpoint_prefix(ID)}weights-00000-of-00003.safetensors"
    data = bytearray(store.read(key))
    data[-1] ^= 1
    store.write(key, bytes(data))
    opened = open_checkpoint(store, ID)
    with pytest.raises(CorruptError, match="damaged in the chunk"):
        fill(opened, "weights", empty_like({"table": whole}, 0, 3), 0, 3)
    target = empty_like({"table": whole}, 1, 3)
    fill(opened, "weights", target, 1, 3)
    assert torch.equal(local(target["table"]), whole[2:4])

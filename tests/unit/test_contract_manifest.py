"""Manifests: both versions, where tensors lie, and nothing that makes no sense."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit import oldcheckpoint
from clip_testkit.memorystore import MemoryStore
from clip_testkit.savedrun import MOMENTS, WEIGHTS, damage, save
from clipctl.contract import commits, layout
from clipctl.contract.digest import canonical_json, chunk_digests, sha256_hex
from clipctl.contract.errors import CorruptError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.manifest import Manifest, StoredObject
from clipctl.contract.safetensors_header import described, read_entries
from clipctl.contract.share import Share
from clipctl.contract.tensor_entry import TensorEntry

OLD = CheckpointId(oldcheckpoint.RUN_STEP, oldcheckpoint.INCARNATION)


def manifest_of(store, checkpoint):
    return commits.read_manifest(store, commits.read_commit(store, checkpoint))


def values(store, checkpoint, piece):
    data = commits.read_piece(store, checkpoint, piece)
    return struct.unpack(f"<{len(data) // 4}f", data)


class TestMigration:
    """Version 1 stays readable, whoever wrote it."""

    @pytest.fixture
    def store(self):
        return MemoryStore(oldcheckpoint.version_1())

    def test_the_fixture_is_frozen(self):
        digests = {key: sha256_hex(data)[:12] for key, data in oldcheckpoint.version_1().items()}
        assert digests == {
            oldcheckpoint.OBJECT: "b4fdf48298a6",
            oldcheckpoint.MANIFEST: "591682e55084",
            oldcheckpoint.COMMIT: "de25f65e1ede",
            "LATEST": "ad411388c649",
        }

    def test_it_verifies_and_reads(self, store):
        record = commits.newest_verified(store, lambda r: pytest.fail(str(r)))
        assert (record.id, record.metrics, record.version) == (OLD, {"loss": 1.25}, 1)
        manifest = commits.read_manifest(store, record)
        assert (manifest.version, manifest.state) == (1, oldcheckpoint.STATE)
        assert commits.read_object(store, OLD, manifest.objects[0]) == store.read(oldcheckpoint.OBJECT)

    def test_its_tensors_are_found_in_its_objects(self, store):
        manifest = manifest_of(store, OLD)
        assert manifest.locate("weights") == {}
        located = described(store, OLD, manifest).locate("weights")
        assert {name: values(store, OLD, pieces[0]) for name, pieces in located.items()} == oldcheckpoint.WEIGHTS

    def test_what_is_read_of_its_objects_is_verified(self, store):
        damage(store, oldcheckpoint.OBJECT)
        with pytest.raises(CorruptError, match="damaged in the chunk"):
            described(store, OLD, manifest_of(store, OLD))

    def test_it_is_written_back_as_it_was(self, store):
        assert manifest_of(store, OLD).to_bytes() == store.read(oldcheckpoint.MANIFEST)

    def test_a_version_from_the_future_says_so(self):
        data = canonical_json({"version": 3, "state": {}, "objects": []})
        with pytest.raises(CorruptError, match="format version 3; this clipctl reads versions 1 to 2") as caught:
            Manifest.from_bytes(data)
        assert "newer" in caught.value.hint

    @pytest.mark.parametrize("version", [True, 1.0, "1", None, 0])
    def test_versions_are_whole_numbers(self, version):
        with pytest.raises(CorruptError, match="format version"):
            Manifest.from_bytes(canonical_json({"version": version, "state": {}, "objects": []}))


class TestLocating:
    def test_whole_tensors(self):
        store = MemoryStore()
        checkpoint = save(store, 1)
        manifest = manifest_of(store, checkpoint)
        for part, tensors in (("weights", WEIGHTS), ("optimizer", MOMENTS)):
            located = manifest.locate(part)
            assert located.keys() == tensors.keys()
            for name, (dtype, shape, data) in tensors.items():
                (piece,) = located[name]
                assert (piece.entry.dtype, piece.entry.whole_shape) == (dtype, shape)
                assert commits.read_piece(store, checkpoint, piece) == data
        assert manifest.locate("average") == {}

    def test_the_manifest_and_the_objects_agree(self):
        store = MemoryStore()
        checkpoint = save(store, 1)
        for stored in manifest_of(store, checkpoint).objects:
            assert read_entries(store, checkpoint, stored) == stored.tensors

    def sharded(self, *pieces, whole=(4, 2)):
        """Objects with one piece each: (shape, offsets)."""
        objects = []
        for rank, (shape, offsets) in enumerate(pieces):
            size = 4 * shape[0] * shape[1]
            entry = TensorEntry("F32", shape, 0, size, whole, offsets)
            name = f"weights-{rank:05d}-of-{len(pieces):05d}.safetensors"
            objects.append(StoredObject.of(name, bytes(size), {"w": entry}))
        return Manifest.from_bytes(Manifest(tuple(objects), {}).to_bytes())

    @pytest.mark.parametrize(
        "pieces",
        [
            [((4, 2), (0, 0))],
            [((1, 2), (0, 0)), ((3, 2), (1, 0))],
            [((4, 1), (0, 1)), ((4, 1), (0, 0))],
            [((2, 1), (0, 0)), ((2, 1), (0, 1)), ((2, 2), (2, 0)), ((0, 2), (4, 0))],
        ],
    )
    def test_pieces_of_a_sharded_tensor(self, pieces):
        located = self.sharded(*pieces).locate("weights")["w"]
        assert [(p.entry.shape, p.entry.offsets) for p in located] == pieces

    @pytest.mark.parametrize(
        "pieces",
        [
            [((3, 2), (0, 0))],
            [((2, 2), (0, 0)), ((2, 2), (0, 0))],
            [((3, 2), (0, 0)), ((2, 2), (2, 0))],
            [((2, 2), (0, 0)), ((1, 2), (3, 0))],
            [((3, 2), (0, 0)), ((2, 1), (2, 0))],
        ],
    )
    def test_pieces_that_do_not_cover_it_exactly_once(self, pieces):
        with pytest.raises(CorruptError, match="do not cover it exactly once"):
            self.sharded(*pieces).locate("weights")

    def test_a_tensor_that_stands_twice(self):
        entry = TensorEntry("F32", (1,), 0, 4)
        objects = tuple(StoredObject.of(f"weights-{r}", bytes(4), {"w": entry}) for r in (0, 1))
        with pytest.raises(CorruptError, match="more than once"):
            Manifest(objects, {}).locate("weights")

    def test_pieces_of_different_kinds(self):
        pieces = (TensorEntry("F32", (1,), 0, 4, (2,), (0,)), TensorEntry("I32", (1,), 0, 4, (2,), (1,)))
        objects = tuple(StoredObject.of(f"weights-{r}", bytes(4), {"w": p}) for r, p in enumerate(pieces))
        with pytest.raises(CorruptError, match="do not agree"):
            Manifest(objects, {}).locate("weights")

    @pytest.mark.parametrize(
        "changes",
        [
            {"end": 17},
            {"start": -4},
            {"start": 8, "end": 4},
            {"shape": [3]},
            {"shape": "4"},
            {"shape": [2.0, 2]},
            {"shape": [True, 4]},
            {"dtype": "F31"},
            {"dtype": None},
            {"global_shape": [8]},
            {"global_shape": [8], "offsets": [5]},
            {"global_shape": [8, 1], "offsets": [0]},
            {"global_shape": [8], "offsets": [-1]},
        ],
    )
    def test_an_entry_that_makes_no_sense(self, changes):
        entry = {"dtype": "F32", "shape": [4], "start": 0, "end": 16, **changes}
        stored = {**StoredObject.of("weights-0", bytes(16)).to_json(), "tensors": {"w": entry}}
        with pytest.raises(CorruptError, match="not well-formed"):
            Manifest.from_bytes(canonical_json({"version": 2, "state": {}, "objects": [stored]}))

    @pytest.mark.parametrize("tensors", ["x", {"w": []}, {"w": None}, None, [1]])
    def test_a_list_of_tensors_that_is_none(self, tensors):
        stored = {**StoredObject.of("weights-0", bytes(16)).to_json(), "tensors": tensors}
        with pytest.raises(CorruptError, match="not well-formed"):
            Manifest.from_bytes(canonical_json({"version": 2, "state": {}, "objects": [stored]}))

    @pytest.mark.parametrize("state", [None, [], "x", 3])
    def test_a_state_that_is_no_object(self, state):
        with pytest.raises(CorruptError, match="not well-formed"):
            Manifest.from_bytes(canonical_json({"version": 2, "state": state, "objects": []}))


class TestRanges:
    @given(st.integers(0, 500), st.integers(0, 500))
    def test_any_range_of_an_object(self, one, two):
        store, checkpoint, data = MemoryStore(), CheckpointId(1, 1), bytes(range(250)) * 2
        stored = StoredObject("w", 500, StoredObject.of("w", data).xxh3)
        small = StoredObject("w", 500, tuple(chunk_digests(data, 64)), 64)
        store.write(layout.checkpoint_prefix(checkpoint) + "w", data)
        start, end = sorted((one, two))
        for description in (stored, small):
            assert commits.read_range(store, checkpoint, description, start, end) == data[start:end]

    def test_only_the_chunks_that_hold_it_are_fetched_and_verified(self):
        store, checkpoint, data = MemoryStore(), CheckpointId(1, 1), bytes(500)
        stored = StoredObject("w", 500, tuple(chunk_digests(data, 100)), 100)
        key = layout.checkpoint_prefix(checkpoint) + "w"
        asked = []
        store.read_range = lambda key, start, length: (
            asked.append((start, length)),
            MemoryStore.read_range(store, key, start, length),
        )[1]
        store.write(key, data[:50] + b"\x01" + data[51:])
        assert commits.read_range(store, checkpoint, stored, 150, 420) == bytes(270)
        assert asked == [(100, 400)]
        with pytest.raises(CorruptError, match="damaged in the chunk at byte 0"):
            commits.read_range(store, checkpoint, stored, 0, 1)

    def test_an_object_that_is_short_or_missing(self):
        store, checkpoint = MemoryStore(), CheckpointId(1, 1)
        stored = StoredObject.of("w", bytes(100))
        with pytest.raises(CorruptError, match="w is missing"):
            commits.read_range(store, checkpoint, stored, 0, 10)
        store.write(layout.checkpoint_prefix(checkpoint) + "w", bytes(99))
        with pytest.raises(CorruptError, match="ends before"):
            commits.read_range(store, checkpoint, stored, 0, 10)


class TestShares:
    SHARE = Share(
        CheckpointId(5, 2), 1, 4, (StoredObject.of("weights-0", b"x" * 8, {"w": TensorEntry("F64", (), 0, 8)}),)
    )

    def test_round_trip(self):
        assert Share.from_bytes(self.SHARE.to_bytes()) == self.SHARE
        assert self.SHARE.key == "checkpoints/step-00000005/inc-000002/share-00001-of-00004.json"

    def test_every_byte_is_covered(self):
        data = self.SHARE.to_bytes()
        for at in range(len(data)):
            for flip in (0x01, 0x20, 0x80):
                with pytest.raises(CorruptError):
                    Share.from_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])

    @pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version":2}', b'{"version":1}', b"\xff", b"{" * 90_000])
    def test_what_is_none(self, data):
        with pytest.raises(CorruptError):
            Share.from_bytes(data)


class TestHeaders:
    def read(self, data):
        store, checkpoint, stored = MemoryStore(), CheckpointId(1, 1), StoredObject.of("f", data)
        store.write(layout.checkpoint_prefix(checkpoint) + "f", data)
        return read_entries(store, checkpoint, stored)

    @pytest.mark.parametrize(
        "header",
        [
            [],
            {"a": {}},
            {"a": []},
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
            {"a": {"dtype": "F32", "shape": [0], "data_offsets": [-1, -1]}},
            {"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 0]}},
            {"a": {"dtype": "F32", "shape": [0], "data_offsets": ["0", "0"]}},
            {"a": {"dtype": "F32", "shape": [0], "data_offsets": [0]}},
            {"a": {"dtype": "F32", "shape": [0], "data_offsets": 0}},
        ],
    )
    def test_malformed_ones_are_corrupt(self, header):
        text = json.dumps(header).encode()
        with pytest.raises(CorruptError):
            self.read(len(text).to_bytes(8, "little") + text)

    @pytest.mark.parametrize("data", [b"", b"1234567", (10**9).to_bytes(8, "little"), b"\x02" + bytes(7) + b"{x"])
    def test_files_that_are_none(self, data):
        with pytest.raises(CorruptError, match=r"^f"):
            self.read(data)

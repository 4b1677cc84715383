"""The commit-record format: what is written can be read, and no damaged byte goes unnoticed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit.memorystore import MemoryStore
from clipctl.contract import commits, layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject
from clipctl.contract.digest import canonical_json, chunk_digests, self_digest, sha256_hex
from clipctl.contract.errors import CorruptError, MissingError, UnavailableError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore

OBJECTS = {
    "weights-00000-of-00001.safetensors": bytes(range(256)) * 3,
    "optimizer-00000-of-00001.safetensors": b"m" * 99,
}


def record_of(step=10, incarnation=1, manifest=b"", **changes):
    fields = {
        "run": "demo",
        "step": step,
        "incarnation": incarnation,
        "attempt": 1,
        "samples_consumed": step * 64,
        "world_size": 2,
        "manifest_sha256": sha256_hex(manifest),
        "bytes_total": 867,
        "spec_digest": "a" * 64,
        "training_digest": "b" * 64,
        "parent": None,
        "created_at": 1700000000.25,
        "writer": "host:1",
        "metrics": {"loss": 1.5e-06, "accuracy": 0.5},
    }
    return CommitRecord(**{**fields, **changes})


def commit(store, step, incarnation=1, objects=OBJECTS, chunk=100):
    """Write a whole checkpoint with small chunks; returns its id."""
    checkpoint = CheckpointId(step, incarnation)
    prefix = layout.checkpoint_prefix(checkpoint)
    stored = []
    for name, data in objects.items():
        store.write(prefix + name, data)
        digests = tuple(chunk_digests(data, chunk))
        stored.append(StoredObject(name, len(data), digests, chunk))
    manifest = Manifest(tuple(stored), {"train": {"step": step}}).to_bytes()
    store.write(f"{prefix}manifest.json", manifest)
    assert store.create(layout.commit_key(checkpoint), record_of(step, incarnation, manifest).to_bytes())
    return checkpoint


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """All bytes of a run with two committed checkpoints, by key."""
    store = LocalStore(tmp_path_factory.mktemp("run"))
    commit(store, 10)
    commit(store, 20, objects={**OBJECTS, "empty-00000-of-00001.safetensors": b""})
    return {info.key: store.read(info.key) for info in store.list("")}


def rejected(store):
    found = []
    newest = commits.newest_verified(store, found.append)
    return newest, found


class TestRoundTrip:
    def test_a_record(self):
        record = record_of(parent="step-00000001.inc-000001")
        assert CommitRecord.from_bytes(record.to_bytes()) == record
        assert record.id == CheckpointId(10, 1)

    def test_a_manifest(self):
        manifest = Manifest((StoredObject.of("a", b"123"), StoredObject.of("empty", b"")), {"x": [1, {"y": None}]})
        assert Manifest.from_bytes(manifest.to_bytes()) == manifest

    @given(
        step=st.integers(0, 10**9),
        world=st.integers(1, 4096),
        metrics=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False), max_size=4),
        writer=st.text(max_size=20),
    )
    def test_any_record(self, step, world, metrics, writer):
        record = record_of(step, world_size=world, metrics=metrics, writer=writer)
        assert CommitRecord.from_bytes(record.to_bytes()) == record

    def test_a_record_is_stable_text(self):
        """The stored form is a format: a release must read what the one before it wrote."""
        text = record_of(metrics={}).to_bytes()
        assert text.startswith(b'{"attempt":1,"bytes_total":867,"created_at":1700000000.25,"digest":"')
        assert sha256_hex(text) == "7ffe367d9dbcad00faccbeef3bdfc3f29a89326486f7e260b3d77ba90bad95d0"

    def test_a_checkpoint(self, tmp_path):
        store = LocalStore(tmp_path)
        checkpoint = commit(store, 7, 3)
        record = commits.verify(store, checkpoint)
        manifest = commits.read_manifest(store, record)
        assert {o.name: commits.read_object(store, checkpoint, o) for o in manifest.objects} == OBJECTS
        assert manifest.state == {"train": {"step": 7}}
        assert commits.list_checkpoints(store) == [checkpoint]


class TestDamage:
    @given(data=st.data())
    def test_any_changed_byte_of_any_object_is_noticed(self, two_checkpoints, data):
        key = data.draw(st.sampled_from(sorted(k for k, v in two_checkpoints.items() if v and "step-00000020" in k)))
        original = two_checkpoints[key]
        at = data.draw(st.integers(0, len(original) - 1))
        flip = data.draw(st.integers(1, 255))
        damaged = original[:at] + bytes([original[at] ^ flip]) + original[at + 1 :]
        self.assert_passed_over(two_checkpoints, key, damaged)

    def test_every_byte_of_record_and_manifest_is_covered(self, two_checkpoints):
        """Exhaustively, with the flips that look most alike: case, sign and the lowest bit."""
        for key in (k for k in two_checkpoints if k.endswith("json") and "step-00000020" in k):
            original = two_checkpoints[key]
            for at in range(len(original)):
                for flip in (0x20, 0x01, 0x80):
                    damaged = original[:at] + bytes([original[at] ^ flip]) + original[at + 1 :]
                    with pytest.raises(CorruptError):
                        commits.verify(MemoryStore({**two_checkpoints, key: damaged}), CheckpointId(20, 1))

    @given(data=st.data())
    def test_truncation_and_extension_are_noticed(self, two_checkpoints, data):
        key = data.draw(st.sampled_from(sorted(k for k in two_checkpoints if "step-00000020" in k)))
        original = two_checkpoints[key]
        cut = data.draw(st.integers(0, max(0, len(original) - 1)))
        damaged = original[:cut] if original else b"x"
        self.assert_passed_over(two_checkpoints, key, damaged)
        self.assert_passed_over(two_checkpoints, key, original + b"\n")

    @given(data=st.data())
    def test_zeroed_and_swapped_ranges_are_noticed(self, two_checkpoints, data):
        key = data.draw(
            st.sampled_from(sorted(k for k, v in two_checkpoints.items() if len(v) > 64 and "00000020" in k))
        )
        original = two_checkpoints[key]
        start = data.draw(st.integers(0, len(original) - 33))
        zeroed = original[:start] + bytes(16) + original[start + 16 :]
        swapped = (
            original[:start] + original[start + 16 : start + 32] + original[start : start + 16] + original[start + 32 :]
        )
        for damaged in (zeroed, swapped):
            if damaged != original:
                self.assert_passed_over(two_checkpoints, key, damaged)

    def test_a_lost_object_is_noticed(self, two_checkpoints):
        for key in (k for k in two_checkpoints if k.startswith("checkpoints/step-00000020")):
            left = {k: v for k, v in two_checkpoints.items() if k != key}
            newest, found = rejected(MemoryStore(left))
            assert newest.id == CheckpointId(10, 1)
            assert [r.checkpoint for r in found] == [CheckpointId(20, 1)]

    def test_an_object_of_another_checkpoint_in_its_place_is_noticed(self, tmp_path):
        store = LocalStore(tmp_path)
        old = commit(store, 10)
        new = commit(store, 20, objects={name: data[::-1] + b"!" for name, data in OBJECTS.items()})
        name = next(iter(OBJECTS))
        store.write(layout.checkpoint_prefix(new) + name, store.read(layout.checkpoint_prefix(old) + name))
        assert rejected(store)[0].id == old

    def test_a_record_under_another_name_is_noticed(self, two_checkpoints):
        stolen = {
            **two_checkpoints,
            "commits/step-00000030.inc-000001.json": two_checkpoints[layout.commit_key(CheckpointId(20, 1))],
        }
        newest, found = rejected(MemoryStore(stolen))
        assert newest.id == CheckpointId(20, 1)
        assert "belongs to step-00000020.inc-000001" in found[0].problem

    def test_the_error_names_object_and_offset(self, two_checkpoints):
        key = "checkpoints/step-00000020/inc-000001/weights-00000-of-00001.safetensors"
        data = bytearray(two_checkpoints[key])
        data[250] ^= 1
        with pytest.raises(CorruptError, match=f"{key} is damaged in the chunk at byte 200"):
            commits.verify(MemoryStore({**two_checkpoints, key: bytes(data)}), CheckpointId(20, 1))

    def assert_passed_over(self, objects, key, damaged):
        newest, found = rejected(MemoryStore({**objects, key: damaged}))
        assert newest.id == CheckpointId(10, 1)
        assert [r.checkpoint for r in found] == [CheckpointId(20, 1)]
        assert found[0].problem


class TestNewest:
    def test_nothing_committed(self, tmp_path):
        assert commits.newest_verified(LocalStore(tmp_path), lambda r: pytest.fail(str(r))) is None

    def test_objects_without_a_commit_record_do_not_exist(self, two_checkpoints):
        left = {k: v for k, v in two_checkpoints.items() if not k.startswith("commits/")}
        assert rejected(MemoryStore(left)) == (None, [])

    def test_latest_is_only_a_hint(self, two_checkpoints):
        store = MemoryStore({**two_checkpoints, "LATEST": b"step-00000010.inc-000001\n"})
        assert rejected(store)[0].id == CheckpointId(20, 1)

    def test_the_newest_incarnation_of_a_step_comes_first(self, tmp_path):
        store = LocalStore(tmp_path)
        for step, incarnation in ((20, 1), (10, 3), (20, 2)):
            commit(store, step, incarnation)
        assert rejected(store)[0].id == CheckpointId(20, 2)

    def test_all_damaged_is_an_error_and_never_a_fresh_start(self, two_checkpoints):
        damaged = {k: v[:-1] if k.startswith("commits/") else v for k, v in two_checkpoints.items()}
        found = []
        with pytest.raises(CorruptError, match="all 2 committed checkpoints in memory are damaged") as caught:
            commits.newest_verified(MemoryStore(damaged), found.append)
        assert [r.checkpoint.step for r in found] == [20, 10]
        assert "new run name" in caught.value.hint

    def test_a_record_that_vanishes_after_the_listing_is_not_a_fresh_start(self, two_checkpoints):
        class Vanishing(MemoryStore):
            def read(self, key):
                raise MissingError(f"{key} does not exist.")

        with pytest.raises(CorruptError, match="all 2"):
            commits.newest_verified(Vanishing(two_checkpoints), lambda r: None)

    def test_an_unavailable_store_is_not_damage(self, two_checkpoints):
        class Down(MemoryStore):
            def read(self, key):
                raise UnavailableError("down")

        with pytest.raises(UnavailableError):
            commits.newest_verified(Down(two_checkpoints), lambda r: pytest.fail(str(r)))

    def test_iterate_reports_each(self, two_checkpoints):
        key = layout.commit_key(CheckpointId(20, 1))
        found = dict(commits.iterate_verified(MemoryStore({**two_checkpoints, key: b"{}"})))
        assert isinstance(found[CheckpointId(20, 1)], CorruptError)
        assert found[CheckpointId(10, 1)].step == 10
        assert list(found) == [CheckpointId(20, 1), CheckpointId(10, 1)]


class TestMalformed:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"null",
            b"[]",
            b'"x"',
            b"{}",
            b"\xff\xfe",
            b"{" * 100_000,
            b'{"version":1}',
            b'{"version":1,"x":' + b"9" * 5000 + b"}",
        ],
    )
    def test_it_is_corrupt_and_not_a_traceback(self, data):
        for parse in (CommitRecord.from_bytes, Manifest.from_bytes):
            with pytest.raises(CorruptError):
                parse(data)

    def test_a_newer_format_says_so(self):
        data = record_of(version=2).to_bytes()
        with pytest.raises(CorruptError, match="format version 2; this clipctl reads version 1") as caught:
            CommitRecord.from_bytes(data)
        assert "newer" in caught.value.hint

    def test_an_unknown_field_is_refused_even_with_a_right_digest(self):
        raw = {**json.loads(record_of().to_bytes()), "surprise": 1}
        raw["digest"] = self_digest(raw)
        with pytest.raises(CorruptError, match="unexpected fields"):
            CommitRecord.from_bytes(canonical_json(raw))

    def test_reformatted_text_with_a_right_digest_is_refused(self):
        with pytest.raises(CorruptError, match="own digest"):
            CommitRecord.from_bytes(json.dumps(json.loads(record_of().to_bytes()), indent=1).encode())

    @pytest.mark.parametrize(
        "changes",
        [{"size": 201}, {"xxh3": []}, {"chunk_bytes": 0}, {"name": "../../other"}, {"xxh3": None}, {"size": "x"}],
    )
    def test_a_manifest_that_makes_no_sense(self, changes):
        stored = {"name": "w", "size": 200, "xxh3": ["a", "b"], "chunk_bytes": 100, **changes}
        data = canonical_json({"version": 1, "state": {}, "objects": [stored]})
        with pytest.raises(CorruptError, match="not well-formed"):
            Manifest.from_bytes(data)

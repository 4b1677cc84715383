"""The trainer's reader runs nothing either, whatever stands where tensors are expected, in both format versions."""

from pathlib import Path

import pytest

from clip_testkit.canaries import payloads
from clip_testkit.memorystore import MemoryStore
from clip_testkit.savedrun import STATE, save
from clip_trainer.checkpoint.reading import open_checkpoint
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject, TensorEntry
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import CorruptError
from clipctl.contract.layout import CheckpointId

NAME, ID = "weights-00000-of-00001.safetensors", CheckpointId(9, 1)


def planted(data, version):
    """A committed checkpoint whose weights are `data`, and whose digests say so."""
    store = MemoryStore()
    entries = {"w": TensorEntry("U8", (len(data),), 0, len(data))} if version == 2 else {}
    manifest = Manifest((StoredObject.of(NAME, data, entries),), STATE, version).to_bytes()
    store.write(layout.checkpoint_prefix(ID) + NAME, data)
    store.write(layout.manifest_key(ID), manifest)
    record = CommitRecord("demo", 9, 1, 1, 0, 1, sha256_hex(manifest), len(data), "a", "b", None, 1.0, "x")
    store.write(layout.commit_key(ID), record.to_bytes())
    return store


@pytest.mark.parametrize("name", sorted(payloads(Path("/canary"))))
def test_bytes_stay_bytes(tmp_path, name):
    canary = tmp_path / "canary"
    data = payloads(canary)[name]
    if not name.startswith("safetensors"):  # those are well-formed files without tensors, of strange names
        with pytest.raises(CorruptError):
            open_checkpoint(planted(data, 1), ID).read()
    found = open_checkpoint(planted(data, 2), ID).read()["weights"]["w"]
    assert bytes(found.tolist()) == data
    assert not canary.exists()


def test_the_reader_reads(tmp_path):
    """Otherwise it could pass the test above by refusing everything."""
    store = MemoryStore()
    found = open_checkpoint(store, save(store, 1)).read()
    assert found["weights"]["visual.w"].tolist() == [[0, 1, 2], [3, 4, 5]]

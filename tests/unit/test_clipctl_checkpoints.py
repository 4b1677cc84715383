import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from clip_testkit.safetensorsfiles import read_tensors
from clipctl.cli import main
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import CannotCreateError, CorruptError, ExitCode
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore
from clipctl.exportcheckpoint import export
from clipctl.safetensorsfile import write_chunks

CONFIG = {"model_cfg": {"embed_dim": 4}}
TENSORS = {
    "visual.w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "text.b": np.arange(3, dtype=np.int64),
    "scale": np.array(2.5, dtype=np.float16),
    "empty": np.zeros((0, 4), dtype=np.float32),
}


def commit(store, step, incarnation=1, state=None, parts=None):
    checkpoint = CheckpointId(step, incarnation)
    if parts is None:
        names = sorted(TENSORS)
        parts = {f"weights-0000{r}-of-00002.safetensors": save({n: TENSORS[n] for n in names[r::2]}) for r in (0, 1)}
        parts["optimizer-00000-of-00001.safetensors"] = save({"m": TENSORS["visual.w"]})
    objects = []
    for name, data in parts.items():
        store.write(layout.checkpoint_prefix(checkpoint) + name, data)
        objects.append(StoredObject.of(name, data))
    manifest = Manifest(tuple(objects), {"open_clip_config": CONFIG} if state is None else state).to_bytes()
    store.write(f"{layout.checkpoint_prefix(checkpoint)}manifest.json", manifest)
    record = CommitRecord(
        run="demo", step=step, incarnation=incarnation, attempt=1, samples_consumed=step * 64, world_size=2,
        manifest_sha256=sha256_hex(manifest), bytes_total=sum(o.size for o in objects), spec_digest="d",
        training_digest="t", parent=None, created_at=1000.0, writer="test",
    )  # fmt: skip
    store.create(layout.commit_key(checkpoint), record.to_bytes())
    return checkpoint


def damage(store, checkpoint):
    key = layout.checkpoint_prefix(checkpoint) + "weights-00000-of-00002.safetensors"
    data = bytearray(store.read(key))
    data[-1] ^= 1
    store.write(key, bytes(data))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs" / "demo"


@pytest.fixture
def store(root):
    return LocalStore(root)


def test_export_joins_the_shards_exactly(store, tmp_path):
    weights, config = export(store, commit(store, 1), str(tmp_path / "out"))
    found = load_file(weights)
    assert found.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
    assert json.loads(config.read_text()) == CONFIG


def test_written_bytes_equal_the_reference_library(tmp_path):
    metadata = {"format": "pt"}
    assert b"".join(write_chunks(read_tensors(save(TENSORS)), metadata)) == save(TENSORS, metadata=metadata)


def test_export_never_overwrites_and_leaves_nothing_half_done(store, tmp_path):
    checkpoint = commit(store, 1)
    export(store, checkpoint, str(tmp_path / "out"))
    with pytest.raises(CannotCreateError, match="exists already"):
        export(store, checkpoint, str(tmp_path / "out"))
    damage(store, checkpoint)
    with pytest.raises(CorruptError):
        export(store, checkpoint, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreateError, match="cannot write to"):
        export(store, commit(store, 2), str(tmp_path / "file" / "x"))


@pytest.mark.parametrize("changes", [{"state": {}}, {"parts": {"optimizer-0": save(TENSORS)}}])
def test_a_checkpoint_without_weights_or_config_is_corrupt(store, tmp_path, changes):
    with pytest.raises(CorruptError, match="no exportable weights"):
        export(store, commit(store, 1, **changes), str(tmp_path / "out"))


def test_ls_shows_the_newest_first_and_damaged_records(store, root, capsys):
    commit(store, 1)
    commit(store, 2)
    store.write(layout.commit_key(CheckpointId(3, 1)), b"{}")
    assert main(["checkpoints", "ls", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["id"] for item in found] == [str(CheckpointId(step, 1)) for step in (3, 2, 1)]
    assert "problem" in found[0]
    assert found[1]["samples_consumed"] == 128
    assert main(["checkpoints", "ls", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["CHECKPOINT", "STEP", "INCARNATION", "AGE", "SIZE", "SAMPLES", "RANKS", "LOSS"]
    assert len(lines) == 4


def test_verify_reads_every_byte_and_exits_65(store, root, capsys):
    good, bad = commit(store, 1), commit(store, 2)
    assert main(["checkpoints", "verify", str(root)]) == 0
    damage(store, bad)
    capsys.readouterr()
    assert main(["checkpoints", "verify", str(root)]) == ExitCode.CORRUPT
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"REJECTED {bad}: ")
    assert out[1] == f"OK       {good}"
    assert main(["checkpoints", "verify", str(root), "--checkpoint", str(good), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"id": str(good), "ok": True, "problem": None}]
    assert main(["checkpoints", "verify", str(root), "--checkpoint", str(bad)]) == ExitCode.CORRUPT


def test_export_takes_the_newest_that_verifies_and_says_so(store, root, capsys, tmp_path):
    good, bad = commit(store, 1), commit(store, 2)
    damage(store, bad)
    assert main(["checkpoints", "export", str(root), str(tmp_path / "out"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["checkpoint"] == str(good)
    assert f"REJECTED {bad}" in captured.err
    damage(store, good)
    assert main(["checkpoints", "export", str(root), str(tmp_path / "o2")]) == ExitCode.CORRUPT
    assert "all 2 committed checkpoints" in capsys.readouterr().err


def test_targets_may_be_files_or_directories(store, root, tmp_path, capsys):
    commit(store, 1)
    from clip_testkit.runyaml import MINIMAL

    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL.replace("s3://bucket/runs", str(root.parent)))
    assert main(["checkpoints", "ls", str(path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ls", "/nowhere/at/all"], ExitCode.MISSING),
        (["verify", "{root}", "--checkpoint", "newest"], ExitCode.USAGE),
        (["verify", "{root}@newest"], ExitCode.USAGE),
        (["verify", "{root}@latest", "--checkpoint", "latest"], ExitCode.USAGE),
        (["verify", "{root}@9"], ExitCode.MISSING),
        (["inspect", "{root}@best"], ExitCode.MISSING),
        (["inspect", "{empty}"], ExitCode.MISSING),
        (["diff", "{root}", "@9"], ExitCode.MISSING),
        (["prune", "{root}"], ExitCode.USAGE),
        (["prune", "{root}", "--keep", "2", "--orphans-older-than", "soon"], ExitCode.USAGE),
        (["verify", "{root}", "--checkpoint", "step-00000009.inc-000001"], ExitCode.MISSING),
        (["export", "{empty}", "out"], ExitCode.MISSING),
        (["export", "{empty}", "out", "--format", "zip"], ExitCode.USAGE),
        (["ls", "ftp://x/y"], ExitCode.USAGE),
    ],
)
def test_bad_targets(arguments, code, store, root, tmp_path, capsys):
    commit(store, 1)
    (tmp_path / "empty").mkdir()
    filled = [a.format(root=root, empty=tmp_path / "empty") for a in arguments]
    assert main(["checkpoints", *filled]) == code
    assert capsys.readouterr().err.startswith("error: ")


def test_no_checkpoints_is_not_an_error(tmp_path, capsys):
    assert main(["checkpoints", "ls", str(tmp_path)]) == 0
    assert main(["checkpoints", "verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no checkpoints\nno checkpoints\n"


def test_the_commit_record_helper_is_honest(store):
    # The tests above rely on it: a record that is changed must not verify.
    record = CommitRecord.from_bytes(store.read(layout.commit_key(commit(store, 5))))
    tampered = json.loads(record.to_bytes()) | {"step": 6}
    with pytest.raises(CorruptError):
        CommitRecord.from_bytes(json.dumps(tampered).encode())
    assert replace(record, step=6) != record

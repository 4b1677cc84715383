"""What the operator learns from storage, and that no state of storage can stop a run but the loss of everything."""

import json
from pathlib import Path
from typing import Any

import pytest

from clip_operator import checkpoints
from clip_operator.world import CheckpointSummary
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import PermissionDeniedError, UnavailableError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore

ROOT = "s3://bucket/runs/demo"


def commit(store: LocalStore, step: int) -> None:
    identity = CheckpointId(step, 3)
    data = b"abc" * step
    manifest = Manifest((StoredObject.of("weights", data),), {}).to_bytes()
    store.write(layout.checkpoint_prefix(identity) + "weights", data)
    store.write(layout.checkpoint_prefix(identity) + "manifest.json", manifest)
    numbers = {"attempt": 1, "samples_consumed": 1, "world_size": 1, "bytes_total": 1, "created_at": 0.0}
    texts = {"spec_digest": "s", "training_digest": "t", "writer": "w", "run": "demo", "parent": None}
    record = CommitRecord(
        step=step,
        incarnation=3,
        manifest_sha256=sha256_hex(manifest),
        **numbers,
        **texts,  # type: ignore[arg-type]
    )
    store.write(layout.commit_key(identity), record.to_bytes())


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def test_the_newest_sound_checkpoint_and_the_damaged_newer_ones(store: LocalStore) -> None:
    for step in (10, 20, 30):
        commit(store, step)
    store.write(layout.checkpoint_prefix(CheckpointId(30, 3)) + "weights", b"damaged")
    summary = checkpoints.inspect(ROOT, lambda _: store)
    assert (summary.resume_from, summary.step) == ("step-00000020.inc-000003", 20)
    (rejected,) = summary.rejected
    assert rejected.startswith("step-00000030.inc-000003: ")
    assert not summary.all_corrupt


def test_no_checkpoint_is_no_problem(store: LocalStore) -> None:
    assert checkpoints.inspect(ROOT, lambda _: store) == CheckpointSummary()


def test_only_damaged_ones_are_said_to_be_lost(store: LocalStore) -> None:
    commit(store, 10)
    store.delete(layout.checkpoint_prefix(CheckpointId(10, 3)) + "weights")
    summary = checkpoints.inspect(ROOT, lambda _: store)
    assert summary.all_corrupt
    assert "Restore one from a backup" in summary.problem
    assert len(summary.rejected) == 1


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("https://bob:hunter22@store does not answer."),
        PermissionDeniedError("the store refuses."),
    ],
)
def test_storage_that_cannot_be_asked(error: Exception) -> None:
    def opener(_: str) -> Any:
        raise error

    summary = checkpoints.inspect(ROOT, opener)
    assert summary.problem
    assert not summary.all_corrupt
    assert "hunter22" not in summary.problem
    assert checkpoints.progress(ROOT, opener) == checkpoints.StorageProgress()


@pytest.mark.parametrize("root", ["", "/data/runs/demo"])
def test_a_path_inside_the_pods_is_not_looked_for_here(root: str) -> None:
    def opener(_: str) -> Any:
        raise AssertionError("must not be opened")

    assert "not visible to the operator" in checkpoints.inspect(root, opener).problem
    assert checkpoints.progress(root, opener) == checkpoints.StorageProgress()


def test_progress_is_cheap_and_tolerant(store: LocalStore) -> None:
    for step in (10, 20):
        commit(store, step)
    assert checkpoints.progress(ROOT, lambda _: store) == checkpoints.StorageProgress(20)
    store.write("status.json", json.dumps({"goodput": 0.93, "eta_seconds": 120}).encode())
    assert checkpoints.progress(ROOT, lambda _: store) == checkpoints.StorageProgress(20, 0.93, 120.0)
    for nonsense in (b"{", b"[]", b'{"goodput": "high", "eta_seconds": true}'):
        store.write("status.json", nonsense)
        assert checkpoints.progress(ROOT, lambda _: store) == checkpoints.StorageProgress(20)

"""Checkpoints through a real S3 client and server: parts, conditions or none, and an upload that is given up."""

import pytest
import s3fs
import torch

from clip_testkit.s3server import create_bucket, one_at_a_time, s3_server, use_only, without_conditions
from clip_testkit.tinystate import incarnate, newest_state, same, saver, state_at
from clip_trainer.checkpoint.save import Saved, SaveFailed
from clipctl.contract import store_s3
from clipctl.contract.commits import list_checkpoints
from clipctl.contract.errors import TryAgainError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import open_store

PARTS = 5 << 20  # elements: 20 MiB, three parts of an upload


@pytest.fixture(params=[one_at_a_time, without_conditions])
def store(request, monkeypatch, tmp_path):
    with s3_server(request.param) as endpoint:
        use_only(monkeypatch, endpoint, tmp_path / "none")
        timeouts = {"connect_timeout": 120, "read_timeout": 120, "retries": {"total_max_attempts": 1}}
        monkeypatch.setattr(store_s3, "_TIMEOUTS", timeouts)  # a busy machine gets all the time it needs
        s3fs.S3FileSystem.clear_instance_cache()  # instances remember the endpoint they were made for
        create_bucket(endpoint, "checkpoints")
        opened = open_store("s3://checkpoints/runs/demo")
        for info in opened.list(""):  # servers of one process share what they store
            opened.delete(info.key)
        yield opened
    s3fs.S3FileSystem.clear_instance_cache()


def state(step):
    parts = state_at(step)
    parts["weights"]["large"] = torch.arange(PARTS, dtype=torch.float32) + step
    return parts


def saved_by(store, incarnation, step, world=2):
    ranks = [saver(store, incarnation, rank=rank, world=world) for rank in range(world)]
    for checkpointer in ranks:
        checkpointer.start(step, step * 12, state(step), {"step": step}, {})
    for checkpointer in ranks:
        checkpointer.wait()
    return [outcome for checkpointer in ranks for outcome in checkpointer.poll()]


def test_two_ranks_save_and_an_older_group_cannot(store):
    old = incarnate(store)
    assert [type(outcome) for outcome in saved_by(store, old, 5)] == [Saved]
    new = incarnate(store)
    (failed,) = saved_by(store, old, 10)
    assert isinstance(failed, SaveFailed)
    assert isinstance(failed.error, TryAgainError)
    assert [outcome.checkpoint for outcome in saved_by(store, new, 15)] == [CheckpointId(15, new)]

    rejected = []
    checkpoint, parts = newest_state(store, rejected)
    assert (checkpoint, rejected) == (CheckpointId(15, new), [])
    assert same(parts, state(15))
    assert store.read("LATEST") == f"{checkpoint}\n".encode()
    assert not any("step-00000010" in info.key for info in store.list("checkpoints/"))  # swept


def test_an_upload_that_is_given_up_leaves_no_parts(store, monkeypatch):
    incarnate(store)
    checkpointer = saver(store)
    check, checks = checkpointer._cancellation.check, []

    def check_and_give_up(self):
        checks.append(1)
        if len(checks) == 5:  # between two pieces of the second object, after two checks for the small first one
            checkpointer.abandon()
        check.__func__(self)

    monkeypatch.setattr(type(checkpointer._cancellation), "check", check_and_give_up)
    checkpointer.start(5, 60, state(5), {}, {})
    checkpointer.wait()
    assert checkpointer.poll() == []
    assert list_checkpoints(store) == []
    assert len(checks) == 5
    assert not any("weights" in info.key for info in store.list("checkpoints/"))
    assert store.unfinished("checkpoints/") == []

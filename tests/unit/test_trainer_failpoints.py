"""A run passes every failpoint of the trainer; whatever breaks there, its ledger stays sound."""

from types import SimpleNamespace

import pytest
import torch

from clip_testkit import history
from clip_testkit.eventlogs import opened
from clip_testkit.shards import write_dataset
from clip_testkit.trainhere import Alone, no_metrics, train_generations_here
from clip_testkit.training import write_config
from clip_trainer.checkpoint.sweeping import sweep
from clip_trainer.config import load_config
from clip_trainer.train import takeover
from clip_trainer.train.events import read_events
from clip_trainer.train.group import Group
from clipctl.contract import layout
from clipctl.contract.errors import UnavailableError
from clipctl.contract.failpoints import armed
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store import open_store
from clipctl.contract.store_local import LocalStore

PASSED_BY_A_RUN = [
    "train.data_opened",
    "train.generation_formed",
    "train.group_entered",
    "train.incarnated",
    "train.restoring",
    "train.synchronised",
    "train.before_step",
    "train.before_update",
    "train.torn",
    "train.stepped",
    "train.recorded",
    "train.leaving",
    "train.events_pending",
    "train.events_stored",
    "train.status",
    "train.last_step_done",
    "train.evaluated",
    "train.exported",
    "train.finished",
    "data.read_file",
    "data.read_sample",
    "data.put_together",
    "data.hand_over",
    "checkpoint.begin",
    "checkpoint.staged",
    "checkpoint.digested",
    "checkpoint.piece",
    "checkpoint.object_stored",
    "checkpoint.before_share",
    "checkpoint.share_stored",
    "checkpoint.shares_gathered",
    "checkpoint.before_commit",
    "checkpoint.manifest_stored",
    "checkpoint.fence_passed",
    "checkpoint.committed",
    "checkpoint.latest_moved",
    "checkpoint.expire",
    "checkpoint.expire_object",
    "store.local.written",
]


@pytest.fixture
def train(tmp_path, monkeypatch):
    no_metrics(monkeypatch.setattr)
    write_dataset(tmp_path / "data", [20, 10])

    def run(parallel="ddp", **checkpoint):
        changes = {"checkpoint": {"every_steps": 1, **checkpoint}, "train": {"parallel": parallel}}
        config = write_config(tmp_path, "run", str(tmp_path / "data"), scale={"nodes": {"max": 1}}, **changes)
        membership = Alone()
        train_generations_here(config, membership)
        spec = load_config(config).spec
        return membership, history.judge(open_store(spec.root), spec)

    return run


def test_a_run_that_loses_a_peer_passes_all_of_them(train, monkeypatch):
    """In step 3 a peer seems to be lost, once: the generation ends, the next one does the step again."""
    monkeypatch.setattr("clip_trainer.train.generations.is_peer_loss", lambda error: "says so" in str(error))
    rules = [f"{name}=note" for name in PASSED_BY_A_RUN if name != "train.before_update"]
    with armed(";".join([*rules, "train.before_update=raise@3"])) as fired:
        membership, faults = train()
    assert sorted(set(PASSED_BY_A_RUN) - set(fired)) == []
    assert (membership.number, membership.code, faults) == (2, 0, [])


OF_MEMORY = ["memory.copied", "memory.publishing", "memory.kept", "memory.restoring", "memory.restored"]


def test_a_sharded_run_that_loses_a_peer_passes_those_of_memory(train, monkeypatch, tmp_path):
    """And goes on from there: the checkpoint, which is older, is not read."""
    monkeypatch.setenv("CLIPCTL_MEMORY", str(tmp_path / "memory"))
    monkeypatch.setattr("clip_trainer.train.generations.is_peer_loss", lambda error: "says so" in str(error))
    rules = [f"{name}=note" for name in OF_MEMORY]
    with armed(";".join([*rules, "train.before_update=raise@6", "store.local.read=note"])) as fired:
        membership, faults = train("fsdp", every_steps=4, memory_steps=2)
    assert sorted(set(OF_MEMORY) - set(fired)) == []
    assert (membership.number, membership.code, faults) == (2, 0, [])
    store = open_store(str(tmp_path / "runs" / "run"))
    started = [event for event in read_events(store) if event["event"] == "started"]
    assert [event["resumed_from"] for event in started] == [None, None]


@pytest.mark.parametrize(
    ("place", "goes_on_from"), [("memory.copied", 2), ("memory.publishing", 2), ("memory.kept", 4)]
)
def test_a_snapshot_counts_as_soon_as_it_is_whole(train, monkeypatch, tmp_path, place, goes_on_from):
    """The peer seems to be lost while the snapshot after step 4 is made, the third one."""
    monkeypatch.setenv("CLIPCTL_MEMORY", str(tmp_path / "memory"))
    monkeypatch.setattr("clip_trainer.train.generations.is_peer_loss", lambda error: "says so" in str(error))
    with armed(f"{place}=raise@3"):
        membership, faults = train("fsdp", every_steps=100, memory_steps=2)
    assert (membership.number, membership.code, faults) == (2, 0, [])
    events = list(read_events(open_store(str(tmp_path / "runs" / "run"))))
    first = next(event["step"] for event in events if event["incarnation"] == 2 and event["event"] == "regrouped")
    assert first == goes_on_from + 1


def test_a_new_rank_0_passes_the_one_of_taking_over(tmp_path, monkeypatch):
    store = LocalStore(tmp_path)
    log = opened(store, 2, lambda: 1.0)
    log.remember([{"step": 1, "first": 0, "end": 1, "digest": 1, "loss": 1.0, "world": 2}])
    spec = SimpleNamespace(train=SimpleNamespace(global_batch=1))
    run = SimpleNamespace(
        events=log,
        group=Group(0, 1, 0, torch.device("cpu")),
        spec=spec,
        store=store,
        state=SimpleNamespace(step=1),
        config=SimpleNamespace(attempt=1),
    )
    with armed("train.taking_over=error:unavailable") as fired, pytest.raises(Exception, match="says so"):
        takeover.take_over(run, 1)
    assert fired == ["train.taking_over"]


def test_what_was_never_committed_is_swept_later_if_not_now(tmp_path):
    store, committed = LocalStore(tmp_path), CheckpointId(8, 1)
    orphan = f"{layout.checkpoint_prefix(CheckpointId(4, 1))}weights"
    store.write(orphan, b"1")
    with armed("checkpoint.sweep=error:unavailable") as fired, pytest.raises(UnavailableError):
        sweep(store, committed)
    assert fired == ["checkpoint.sweep"]
    assert store.read(orphan) == b"1"
    assert sweep(store, committed) == 1

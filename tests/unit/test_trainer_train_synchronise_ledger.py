"""A rank 0 that survives a step behind the others writes that step into its ledger too."""

from types import SimpleNamespace

import torch

from clip_testkit import history
from clip_testkit.eventlogs import opened
from clip_trainer.checkpoint.save import Identity
from clip_trainer.train import synchronise
from clip_trainer.train.events import read_events
from clip_trainer.train.group import Group
from clipctl.contract.store_local import LocalStore


def fields(step):
    return {"step": step, "first": step - 1, "end": step, "digest": step, "loss": 1.0, "world": 3}


def test_the_step_that_only_others_had_done_is_copied(tmp_path):
    store = LocalStore(tmp_path)
    log = opened(store, 1, lambda: 1.0)
    log.write("started", step=0, samples_consumed=0, world=3)
    log.write("step", **fields(1))
    identity = Identity("run", 1, 1, "", "", "")
    group = Group(0, 1, 0, torch.device("cpu"))
    run = SimpleNamespace(events=log, group=group, incarnation=1, checkpointer=SimpleNamespace(identity=identity))

    log.remember([fields(1), fields(2)])  # as a peer gave it
    synchronise._go_on(run, 1, written=1)
    log.write("step", **fields(3))
    log.flush()

    events = list(read_events(store))
    assert [(e["step"], e.get("copy", False)) for e in events] == [(0, False), (1, False), (2, True), (3, False)]
    assert history.check(events, 3) == []
    assert run.incarnation == 1

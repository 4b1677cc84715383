"""A process that was cut off while others trained on: what it still remembers, writes and saves does not count."""

from types import SimpleNamespace

import pytest

from clip_testkit.eventlogs import opened
from clip_testkit.trainhere import no_metrics, prepared, train_here
from clip_testkit.training import write_config, write_labelled_dataset
from clip_trainer.checkpoint.save import Identity
from clip_trainer.train import synchronise
from clip_trainer.train.events import read_events
from clip_trainer.train.saving import Saving
from clip_trainer.train.synchronise import OWN, STORAGE
from clipctl.contract.errors import TryAgainError
from clipctl.contract.failpoints import armed
from clipctl.contract.store_local import LocalStore


@pytest.fixture
def config(tmp_path, monkeypatch):
    no_metrics(monkeypatch.setattr)
    write_labelled_dataset(tmp_path / "data", [11, 9, 5])
    changes = {"train": {"steps": 20}, "checkpoint": {"every_steps": 20}}
    return write_config(tmp_path, "run", str(tmp_path / "data"), **changes)


def test_a_state_that_storage_has_overtaken_is_thrown_away(config):
    run = train_here(config, until=3)
    train_here(config, until=5)  # by others, in generation 2
    assert synchronise.synchronise(run, generation=3) == STORAGE
    assert (run.state.step, run.incarnation, run.generation) == (5, 3, 3)


def test_a_state_that_is_further_than_storage_takes_over_from_others(config):
    run = train_here(config, until=3)
    prepared(config)  # others have begun, and not got as far
    run.state.step += 1
    run.events.write("step", step=4)
    assert synchronise.synchronise(run, generation=3) == OWN
    assert (run.state.step, run.incarnation) == (4, 3)
    run.events.flush()
    last = list(read_events(run.store))
    assert [(e["event"], e["step"]) for e in last if e["incarnation"] == 3][:2] == [("started", 3), ("step", 4)]


def test_storage_is_not_asked_when_the_generation_follows_on_the_last_one(config):
    run = train_here(config, until=3)
    run.store = None
    assert synchronise.synchronise(run, generation=2) == OWN
    assert run.incarnation == 1


def test_who_was_rank_0_and_is_not_any_more_neither_writes_nor_commits(tmp_path):
    log = opened(LocalStore(tmp_path), 1, lambda: 1.0)
    abandoned = []
    run = SimpleNamespace(
        events=log,
        group=SimpleNamespace(is_first=False, broadcast_json=lambda _: True),
        incarnation=1,
        checkpointer=SimpleNamespace(identity=Identity("run", 1, 1, "", "", ""), abandon=lambda: abandoned.append(1)),
    )
    synchronise._go_on(run, 2, written=0)
    assert (run.incarnation, run.checkpointer.identity.incarnation) == (2, 2)
    assert not log.writes
    assert abandoned == [1]


def test_a_save_that_was_fenced_off_does_not_end_a_process_that_has_joined_the_others(config):
    run = train_here(config, until=3)
    with armed("checkpoint.fence_passed=error:try_again"):
        Saving(run).start(1.0)
        assert run.checkpointer.wait()
    run.incarnation += 1
    assert Saving(run).wishes().failed_saves == 0


def test_a_save_that_was_fenced_off_ends_a_process_that_is_still_alone(config):
    run = train_here(config, until=3)
    with armed("checkpoint.fence_passed=error:try_again"):
        Saving(run).start(1.0)
        assert run.checkpointer.wait()
    with pytest.raises(TryAgainError):
        Saving(run).wishes()


def test_who_was_overtaken_does_not_finish_the_run_of_others(config):
    run = train_here(config, until=3)
    train_here(config, until=5)
    with pytest.raises(TryAgainError, match="is fenced off"):
        Saving(run).at_the_end()

"""Event files, read back by TensorBoard's own reader."""

import sys

import pytest

from clip_testkit.clock import FakeClock
from clip_trainer.log.tensorboard import TensorBoardLog, part_key
from clipctl.contract.errors import SpecError, UnavailableError
from clipctl.contract.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def log_of(store, incarnation=1, first_step=0, clock=None):
    clock = clock or FakeClock()
    return TensorBoardLog(store, incarnation, first_step, clock, clock)


def read(store, tag):
    """(step, value) of a tag, as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(f"{store.root}/tensorboard", size_guidance={"scalars": 0}).Reload()
    return [(event.step, round(event.value, 6)) for event in accumulator.Scalars(tag)]


def tags(store):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return set(EventAccumulator(f"{store.root}/tensorboard").Reload().Tags()["scalars"])


def test_what_is_written_can_be_read(store):
    log = log_of(store)
    for step in range(0, 300, 100):
        log.train({"train/loss": step / 100, "train/lr": 0.5}, step)
    log.evaluation({"val/clip_val_loss": 2.5}, 250, None)
    log.close()
    assert tags(store) == {"train/loss", "train/lr", "val/clip_val_loss"}
    assert read(store, "train/loss") == [(0, 0.0), (100, 1.0), (200, 2.0)]
    assert read(store, "val/clip_val_loss") == [(250, 2.5)]


def test_steps_beyond_what_a_training_has(store):
    log = log_of(store)
    log.train({"train/loss": float("nan"), "train/lr": 1e-30}, 2**40)
    log.close()
    assert read(store, "train/lr") == [(2**40, 0.0)]


def test_files_are_stored_at_growing_intervals(store):
    clock = FakeClock()
    log = log_of(store, clock=clock)
    for step in range(3600):
        log.train({"train/loss": 1.0}, step)
        log.flush()
        clock.advance(1.0)
    log.close()
    parts = [info.key for info in store.list("tensorboard/")]
    assert parts == [part_key(1, number) for number in range(len(parts))]
    assert 100 < len(parts) < 200
    assert len(read(store, "train/loss")) == 3600


def test_nothing_new_makes_no_file(store):
    log = log_of(store)
    log.close()
    log.close()
    assert store.list("tensorboard/") == []


def test_a_resumed_run_replaces_what_was_logged_after_its_checkpoint(store):
    lost = log_of(store)
    for step in range(10):
        lost.train({"train/loss": 1.0}, step)
    lost.close()
    resumed = log_of(store, incarnation=2, first_step=6)
    for step in range(6, 12):
        resumed.train({"train/loss": 2.0}, step)
    resumed.close()
    assert read(store, "train/loss") == [*((step, 1.0) for step in range(6)), *((step, 2.0) for step in range(6, 12))]


def test_an_epoch_is_logged_once(store):
    lost = log_of(store)
    lost.evaluation({"val/epoch": 1.0}, 100, 1)
    lost.evaluation({"val/epoch": 2.0}, 200, 2)
    lost.close()
    resumed = log_of(store, incarnation=2, first_step=150)
    resumed.evaluation({"val/epoch": 2.0}, 200, 2)
    resumed.evaluation({"val/epoch": 3.0}, 300, 3)
    resumed.close()
    assert read(store, "val/epoch") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_what_could_not_be_stored_comes_later(store, monkeypatch):
    log, write = log_of(store), store.write

    def refuse(key, data):
        raise UnavailableError("storage is away.")

    monkeypatch.setattr(store, "write", refuse)
    log.train({"train/loss": 1.0}, 0)
    with pytest.raises(UnavailableError):
        log.close()
    monkeypatch.setattr(store, "write", write)
    log.train({"train/loss": 2.0}, 1)
    log.close()
    assert read(store, "train/loss") == [(0, 1.0), (1, 2.0)]


def test_without_the_package_it_says_what_to_install(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(SpecError, match="not installed") as caught:
        log_of(store)
    assert "clipctl[tensorboard]" in caught.value.hint

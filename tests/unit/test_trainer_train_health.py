"""The watch of a run over itself: what is compared when, what the ledger gets, and whose time counts as slow."""

from types import SimpleNamespace

import pytest

from clip_testkit.healthwork import flip_bit
from clip_testkit.rankwork import small_model
from clip_testkit.shards import write_dataset
from clip_testkit.trainhere import no_metrics, train_here
from clip_testkit.training import write_config
from clip_trainer.elastic import beacon as beacon_module
from clip_trainer.elastic.beacon import Beacon
from clip_trainer.train.divergence import DivergenceError, checksum
from clip_trainer.train.events import read_events
from clip_trainer.train.health import Health
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.stragglers import WINDOW_STEPS
from clipctl.contract import metric_names
from clipctl.contract.sections import HealthSection


class Events:
    def __init__(self):
        self.told, self.flushed = [], 0

    def tell(self, event, message, **fields):
        self.told.append((event, fields))

    def try_flush(self):
        self.flushed += 1


class Pair:
    """A group of two; the other rank answers `other(own)`."""

    def __init__(self, other=lambda own: own):
        self.rank, self.world, self.other = 0, 2, other

    def gather_json(self, own):
        return [own, self.other(own)]


def run_with(group, parallel="ddp", **section):
    return SimpleNamespace(
        spec=SimpleNamespace(health=HealthSection(**section), train=SimpleNamespace(parallel=parallel)),
        model=small_model(),
        group=group,
        events=Events(),
        metrics=TrainerMetrics(),
        state=SimpleNamespace(step=100),
    )


def value(run, metric):
    return run.metrics.registry.get_sample_value(metric.name)


@pytest.fixture
def clock(monkeypatch):
    """The time that the process's beacon sees."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(beacon_module, "_current", Beacon(lambda: now.seconds))
    return now


class TestReplicas:
    def test_the_checksum_is_that_of_weights_and_buffers(self):
        run = run_with(Pair())
        health = Health(run)
        own = health.checksum(saving=False)
        assert own == checksum(run.model.state_dict().values())
        flip_bit(run.model.visual.proj)
        assert health.checksum(saving=False) != own
        health.after_step(own, 0.1)
        assert run.events.told == []

    def test_between_comparisons_there_is_none_unless_something_is_saved(self):
        run = run_with(Pair(lambda own: pytest.fail("nobody may be asked")))
        run.state.step = 101
        assert Health(run).checksum(saving=False) is None
        assert Health(run).checksum(saving=True) is not None
        Health(run).after_step(None, 0.1)

    def test_a_divergence_is_told_counted_and_raised(self):
        run = run_with(Pair(lambda own: own ^ 1))
        health = Health(run)
        with pytest.raises(DivergenceError):
            health.after_step(health.checksum(saving=False), 0.1)
        assert [event for event, _ in run.events.told] == ["divergence"]
        assert run.events.flushed == 1
        assert value(run, metric_names.TRAIN_DIVERGENCES) == 1.0


class TestStragglers:
    def test_waiting_for_peers_is_not_a_ranks_own_time(self, clock):
        run = run_with(Pair(lambda own: 1.0), checksum_steps=0)
        health = Health(run)
        for step in range(1, WINDOW_STEPS + 1):
            run.state.step = step
            health.before_step()
            with beacon_module.current().waiting_for_peers():
                clock.seconds += 9.0
            health.after_step(None, 11.0)
        assert [(event, fields["ranks"]) for event, fields in run.events.told] == [("straggler", [0])]
        assert run.events.told[0][1]["p95"] == [2.0, 1.0]
        assert value(run, metric_names.TRAIN_STRAGGLER) == 2.0

    def test_the_ratio_is_that_of_the_run(self, clock):
        run = run_with(Pair(lambda own: 1.0), checksum_steps=0, straggler_ratio=3.0)
        health = Health(run)
        for step in range(1, WINDOW_STEPS + 1):
            run.state.step = step
            health.before_step()
            health.after_step(None, 2.0)
        assert run.events.told == []


def test_shards_are_not_compared():
    run = run_with(Pair(lambda own: pytest.fail("nobody may be asked")), parallel="fsdp")
    health = Health(run)
    assert health.checksum(saving=True) is None
    health.after_step(None, 1.0)


def test_the_ledger_has_the_checksum_of_the_weights(tmp_path, monkeypatch):
    no_metrics(monkeypatch.setattr)
    write_dataset(tmp_path / "data", [30])
    config = write_config(tmp_path, "watched", str(tmp_path / "data"), health={"checksum_steps": 3})
    run = train_here(config)
    steps = {event["step"]: event for event in read_events(run.store) if event["event"] == "step"}
    # Every third step, those of checkpoints (every fourth), and the last.
    assert [step for step in sorted(steps) if "checksum" in steps[step]] == [3, 4, 6, 8]
    assert steps[8]["checksum"] == checksum(run.model.state_dict().values())

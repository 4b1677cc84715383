"""What a run says about itself while it goes on: state, rate, status file, stop requests, loss curve."""

import json
import os
import signal
import struct

import pytest

from clip_testkit.clock import FakeClock
from clip_trainer.train.curve import loss_curve_png
from clip_trainer.train.metrics import TrainerMetrics
from clip_trainer.train.preemption import PreemptionNotice
from clip_trainer.train.state import TrainState
from clip_trainer.train.status import Rate, StatusFile
from clip_trainer.train.step import StepResult
from clip_trainer.train.wishes import NOTHING
from clipctl.contract import metric_names
from clipctl.contract.errors import UnavailableError
from clipctl.contract.layout import STATUS
from clipctl.contract.store_local import LocalStore


class TestState:
    def test_it_survives_json(self):
        state = TrainState(step=5, samples_consumed=60, replaced=1, productive_seconds=2.5, first_started_at=10.0)
        assert TrainState.from_json(json.loads(json.dumps(state.to_json()))) == state

    def test_fields_of_a_newer_version_are_ignored_and_missing_ones_have_defaults(self):
        assert TrainState.from_json({"step": 5, "invented": 1}) == TrainState(step=5)

    @pytest.mark.parametrize(
        ("productive", "elapsed", "expected"),
        [(0.0, 10.0, 0.0), (5.0, 10.0, 0.5), (11.0, 10.0, 1.0), (1.0, 0.0, 0.0), (1.0, -5.0, 0.0)],
    )
    def test_goodput_is_a_share_even_if_the_clock_was_set_back(self, productive, elapsed, expected):
        state = TrainState(productive_seconds=productive, first_started_at=100.0)
        assert state.goodput(100.0 + elapsed) == expected


class TestRate:
    def test_nothing_yet(self):
        assert Rate(monotonic=FakeClock()).per_second() == 0.0

    def test_a_steady_rate(self):
        clock = FakeClock()
        rate = Rate(monotonic=clock)
        for _ in range(5):
            clock.advance(2.0)
            rate.add(64)
        assert rate.per_second() == pytest.approx(32.0)

    def test_only_the_last_steps_count(self):
        clock = FakeClock()
        rate = Rate(window=4, monotonic=clock)
        for seconds in (10, 10, 10, 1, 1, 1, 1):
            clock.advance(seconds)
            rate.add(8)
        assert rate.per_second() == pytest.approx(8.0)

    def test_a_clock_that_stands_still_divides_by_nothing(self):
        rate = Rate(monotonic=FakeClock())
        rate.add(8)
        assert rate.per_second() == 0.0


class TestStatusFile:
    def test_it_is_written_at_most_every_two_seconds(self, tmp_path):
        clock, asked = FakeClock(100.0), []
        store = LocalStore(tmp_path)
        status = StatusFile(store, clock)

        def fields():
            asked.append(clock())
            return {"step": len(asked)}

        for _ in range(6):
            status.write_if_due(fields)
            clock.advance(1.0)
        assert asked == [100.0, 102.0, 104.0]
        assert json.loads(store.read(STATUS)) == {"updated_at": 104.0, "step": 3}

    def test_an_outage_only_makes_it_stale(self, capsys):
        class Down:
            def write(self, key, data):
                raise UnavailableError("down.")

        StatusFile(Down(), FakeClock()).write({"step": 1})
        assert capsys.readouterr().out == "status.json was not updated: down.\n"

    def test_other_ranks_write_nothing(self):
        StatusFile(None, FakeClock()).write({"step": 1})


class TestPreemption:
    @pytest.fixture
    def handlers(self):
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_is_remembered_and_a_second_one_is_harmless(self, handlers, number):
        notice = PreemptionNotice()
        notice.install()
        assert not notice.received
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert notice.received


class TestCurve:
    def event(self, step, incarnation=1):
        return {"step": step, "loss": 4.0 / step, "incarnation": incarnation}

    @pytest.mark.parametrize("steps", [0, 1, 30])
    def test_it_is_a_picture_of_any_number_of_steps(self, steps):
        png = loss_curve_png([self.event(step) for step in range(1, steps + 1)], "demo")
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", png[16:24]) == (960, 540)

    def test_a_restart_is_marked(self):
        smooth = loss_curve_png([self.event(step) for step in range(1, 9)], "demo")
        marked = loss_curve_png([self.event(step, 1 + (step > 4)) for step in range(1, 9)], "demo")
        assert marked != smooth


class TestMetrics:
    def result(self):
        return StepResult(
            loss=1.5,
            losses={"contrastive_loss": 1.0, "caption_loss": 0.5},
            gradient_norm=0.25,
            digest=7,
            replaced=0,
            agreed=NOTHING,
            skipped=None,
            seconds={"data": 0.1, "compute": 0.2, "reduce": 0.05, "optimizer": 0.01},
        )

    def test_every_metric_of_the_table_exists(self):
        metrics = TrainerMetrics()
        names = {family.name for family in metrics.registry.collect()}
        assert names == {metric.name.removesuffix("_total") for metric in metric_names.TRAINER_METRICS}

    def test_a_step_is_recorded(self):
        metrics = TrainerMetrics()
        for step in (1, 2):
            metrics.observe_step(self.result(), step=step, samples=6, rate=30.0, learning_rate=1e-3)
        value = metrics.registry.get_sample_value
        assert value("clip_train_step") == 2
        assert value("clip_train_loss") == 1.5
        assert value("clip_train_loss_term", {"term": "caption_loss"}) == 0.5
        assert value("clip_train_samples_total") == 12
        assert value("clip_train_step_seconds_count", {"phase": "compute"}) == 2
        assert value("clip_train_gradient_norm") == 0.25

    def test_two_trainers_on_one_host_find_two_ports(self):
        import socket
        import urllib.request

        with socket.create_server(("", 0)) as taken:
            port = taken.getsockname()[1]
            found = TrainerMetrics().serve(port, 1)
        assert port < found <= port + 16
        text = urllib.request.urlopen(f"http://127.0.0.1:{found}/metrics").read().decode()
        assert "clip_train_step_seconds_bucket" in text or "clip_train_step " in text

    def test_no_free_port_is_no_reason_to_stop(self):
        assert TrainerMetrics().serve(65536, 1) == 0

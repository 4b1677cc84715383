"""Which steps are logged, on which axis, and that a log that fails does not matter to the run."""

import sys
from types import SimpleNamespace

import pytest
import torch

from clip_testkit.runyaml import spec_with
from clip_trainer.log import experiment
from clip_trainer.log.experiment import ExperimentLogs
from clip_trainer.train.state import TrainState
from clipctl.contract.store import open_store


class Recorder:
    def __init__(self):
        self.steps, self.evaluations, self.closed = {}, [], False

    def train(self, scalars, step):
        self.steps[step] = scalars

    def evaluation(self, scalars, step, epoch):
        self.evaluations.append((step, epoch, scalars["val/epoch"]))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def run_of(tmp_path, *overrides, rank=0, samples=640):
    """As much of a run as logs look at; 64 samples a step, 10 steps."""
    events = []
    return SimpleNamespace(
        spec=spec_with("log.every_steps=4", *overrides),
        group=SimpleNamespace(rank=rank, world=2, is_first=rank == 0),
        store=open_store(str(tmp_path)),
        epoch_samples=samples,
        model=SimpleNamespace(logit_scale=torch.zeros(())),
        state=TrainState(),
        total_steps=10,
        incarnation=1,
        events=SimpleNamespace(write=lambda event, **fields: events.append((event, fields)), written=events),
    )


def do_steps(run, logs, count=10):
    for _ in range(count):
        start = run.state.samples_consumed
        run.state.step, run.state.samples_consumed = run.state.step + 1, start + 64
        batch = SimpleNamespace(position_start=start, position_end=start + 64, wait_seconds=0.5)
        result = SimpleNamespace(losses={"contrastive_loss": float(run.state.step)}, loss=float(run.state.step))
        logs.step(batch, result, 1e-3, 2.0)


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(experiment, "TensorBoardLog", lambda *arguments: recorder)
    return recorder


class TestSteps:
    def test_every_so_many_from_the_first_and_the_last(self, tmp_path, recorder):
        run = run_of(tmp_path, "log.tensorboard=true")
        logs = ExperimentLogs(run)
        do_steps(run, logs)
        logs.close()
        assert list(recorder.steps) == [0, 4, 8, 9]
        assert recorder.steps[4]["train/loss"] == 5.0
        assert recorder.steps[4]["train/samples_per_second_per_gpu"] == 16.0
        assert recorder.steps[4]["train/scale"] == 1.0
        assert recorder.closed
        assert run.events.written == []

    def test_other_ranks_log_nothing(self, tmp_path, recorder):
        run = run_of(tmp_path, "log.tensorboard=true", rank=1)
        logs = ExperimentLogs(run)
        do_steps(run, logs)
        logs.close()
        assert recorder.steps == {}

    def test_without_logs_nothing_is_computed(self, tmp_path):
        run = run_of(tmp_path)
        run.model = None
        logs = ExperimentLogs(run)
        do_steps(run, logs)
        logs.close()


class TestEvaluations:
    results = {"retrieval": {"clip_val_loss": 1.0}}

    def logged(self, run, recorder, steps):
        logs = ExperimentLogs(run)
        do_steps(run, logs, steps)
        logs.evaluation(self.results)
        logs.evaluation({})
        logs.close()
        return recorder.evaluations

    def test_at_ends_of_epochs_the_axis_is_epochs(self, tmp_path, recorder):
        run = run_of(tmp_path, "log.tensorboard=true", samples=200)  # an epoch ends in step 4
        assert self.logged(run, recorder, 4) == [(4, 1, 256 / 200)]

    @pytest.mark.parametrize("changes", [["eval.every_steps=3", "eval.retrieval.data=x"], []])
    def test_otherwise_it_is_steps(self, tmp_path, recorder, changes):
        """Also where a batch is more than an epoch."""
        run = run_of(tmp_path, "log.tensorboard=true", *changes, samples=200 if changes else 50)
        ((step, epoch, _),) = self.logged(run, recorder, 6)
        assert (step, epoch) == (6, None)


class TestFailures:
    def test_a_missing_package_is_told_once_and_training_goes_on(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "wandb", None)
        run = run_of(tmp_path, "log.wandb.project=p")
        logs = ExperimentLogs(run)
        do_steps(run, logs)
        logs.close()
        ((event, fields),) = run.events.written
        assert (event, fields["log"]) == ("log_failed", "wandb")
        assert "not installed" in fields["message"]
        assert capsys.readouterr().err.count("wandb stopped logging") == 1

    def test_one_log_fails_and_the_other_goes_on(self, tmp_path, recorder, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", None)
        run = run_of(tmp_path, "log.wandb.project=p", "log.tensorboard=true")
        logs = ExperimentLogs(run)
        do_steps(run, logs)
        logs.close()
        assert list(recorder.steps) == [0, 4, 8, 9]

    def test_credentials_are_masked(self, tmp_path, monkeypatch, capsys):
        def fail(*arguments):
            raise RuntimeError("https://user:hunter2@host/ refused")

        monkeypatch.setattr(experiment, "TensorBoardLog", fail)
        run = run_of(tmp_path, "log.tensorboard=true")
        logs = ExperimentLogs(run)
        do_steps(run, logs)
        logs.close()
        assert "hunter2" not in capsys.readouterr().err

    def test_what_runs_keep_secret_is_not_sent(self, tmp_path, monkeypatch):
        seen = {}
        monkeypatch.setattr(experiment, "WandbLog", lambda section, **options: seen.update(options) or Recorder())
        run = run_of(tmp_path, "log.wandb.project=p", "env.AWS_REGION=x")
        logs = ExperimentLogs(run)
        logs.close()
        assert seen["name"] == "demo"
        assert "env" not in seen["config"]
        assert "secrets" not in seen["config"]
        assert seen["config"]["train"]["global_batch"] == 64

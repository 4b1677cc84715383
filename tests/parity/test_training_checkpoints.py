"""OpenCLIP's real training program and ours continue each other's checkpoints: same weights, epoch, learning rates."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from clip_testkit.training import SMALL_MODEL, write_config, write_labelled_dataset
from clip_trainer import main as trainer
from clip_trainer.config import load_config
from clip_trainer.train.events import read_events, trajectory
from clip_trainer.train.metrics import TrainerMetrics
from clipctl.cli import main as clipctl
from clipctl.contract.store import open_store

pytestmark = [pytest.mark.parity, pytest.mark.long]

SAMPLES, BATCH, EPOCHS, PER_EPOCH = 24, 6, 4, 4
TRAIN = {"global_batch": BATCH, "steps": EPOCHS * PER_EPOCH, "learning_rate": 1e-3, "warmup_steps": 2}
PROGRAM = """
import sys, open_clip
open_clip.add_model_config(sys.argv[1])
from open_clip_train.main import main
main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    (folder / "configs").mkdir()
    (folder / "configs" / "ViT-cli.json").write_text(json.dumps(SMALL_MODEL))
    write_labelled_dataset(folder / "data", [14, 10])
    return folder


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """`main` takes the process over: give back what it takes."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(TrainerMetrics, "serve", lambda *_: 0)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run_theirs(folder, name, *extra):
    """Run `python -m open_clip_train.main` with the small model known; its log."""
    options = (
        "--dataset-type synthetic --workers 0 --precision fp32 --device cpu --model ViT-cli --log-every-n-steps 1 "
        f"--train-num-samples {SAMPLES} --batch-size {BATCH} --epochs {EPOCHS} --warmup 2 --lr 1e-3 --wd 0.2 "
        f"--save-frequency 1 --logs {folder / 'logs'} --name {name}"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(folder / "configs"), *options.split(), *extra]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return (folder / "logs" / name / "out.log").read_text()


def rates(log):
    """(epoch, learning rate) of each logged step."""
    found = re.findall(r"Train Epoch: (\d+) .*? LR: ([\d.]+)", log)
    return [(int(epoch), float(rate)) for epoch, rate in found]


def run_ours(folder, name, **changes):
    """Run our trainer in this process; its store."""
    sections = {"train": TRAIN, "scale": {"nodes": {"max": 1}}, "checkpoint": {"every_steps": 8}, **changes}
    path = write_config(folder, name, str(folder / "data"), **sections)
    assert trainer.main([str(path)]) == 0
    return open_store(load_config(path).spec.root)


def checkpoint(path):
    return torch.load(path, weights_only=True)


def test_we_continue_theirs(folder):
    log = run_theirs(folder, "theirs")
    expected = rates(log)
    assert len(expected) == EPOCHS * PER_EPOCH
    source = folder / "logs" / "theirs" / "checkpoints" / "epoch_2.pt"
    store = run_ours(folder, "ours", checkpoint={"every_steps": 8, "resume_from": str(source)})
    events = list(read_events(store))
    (started,) = [event for event in events if event["event"] == "started"]
    assert (started["step"], started["samples_consumed"]) == (2 * PER_EPOCH, 2 * SAMPLES)
    steps = trajectory(events)
    assert [event["step"] for event in steps] == list(range(2 * PER_EPOCH + 1, EPOCHS * PER_EPOCH + 1))
    for event, (epoch, rate) in zip(steps, expected[2 * PER_EPOCH :], strict=True):
        assert event["lr"] == pytest.approx(rate, abs=1e-6)
        assert (event["first"] // SAMPLES) == epoch
    # A run that has a checkpoint of its own does not look at theirs again.
    source.unlink()
    assert len(trajectory(read_events(run_ours(folder, "ours", checkpoint={"resume_from": str(source)})))) == len(steps)


def test_they_continue_ours(folder, capsys):
    store = run_ours(folder, "mine")
    arguments = ["checkpoints", "export", str(folder / "runs" / "mine"), str(folder / "export")]
    assert clipctl([*arguments, "--format", "open-clip", "--checkpoint", "step-00000008.inc-000001"]) == 0
    exported = folder / "export" / "epoch_2.pt"
    log = run_theirs(folder, "continued", "--resume", str(exported))
    assert f"resuming checkpoint '{exported}' (epoch 2)" in log
    continued = rates(log)
    assert [epoch for epoch, _ in continued] == [2] * PER_EPOCH + [3] * PER_EPOCH
    own = [event["lr"] for event in trajectory(read_events(store))][2 * PER_EPOCH :]
    assert [rate for _, rate in continued] == pytest.approx(own, abs=1e-6)
    final = checkpoint(folder / "logs" / "continued" / "checkpoints" / "epoch_4.pt")
    before = checkpoint(exported)
    assert final["state_dict"].keys() == before["state_dict"].keys()
    steps = {int(state["step"]) for state in final["optimizer"]["state"].values()}
    assert steps == {EPOCHS * PER_EPOCH}  # 8 of ours and 8 of theirs
    sizes = [[len(group["params"]) for group in c["optimizer"]["param_groups"]] for c in (before, final)]
    assert sizes[0] == sizes[1]

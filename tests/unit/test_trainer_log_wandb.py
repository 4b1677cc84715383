"""What Weights & Biases is told. Its package is large and not needed for the tests: a stand-in records the calls."""

import os
import sys
import types

import pytest

from clip_testkit.clock import FakeClock
from clip_trainer.log.wandb import UPLOAD_SECONDS, WandbLog, run_id
from clipctl.contract.errors import SpecError
from clipctl.contract.sections import WandbSection
from clipctl.contract.store import open_store


class StandIn(types.ModuleType):
    """Records what is asked of `wandb`, and writes a file where the offline mode writes one."""

    def __init__(self):
        super().__init__("wandb")
        self.options, self.logged, self.finished = {}, [], 0
        self.Settings = lambda **options: options

    def init(self, **options):
        from pathlib import Path

        self.options = options
        folder = Path(options["dir"]) / "wandb" / "offline-run-1-x"
        folder.mkdir(parents=True)
        self.file = folder / "run-x.wandb"
        self.file.write_bytes(b"begin")
        return self

    def log(self, values, step):
        self.logged.append((values, step))

    def finish(self):
        self.finished += 1
        self.file.write_bytes(b"all")


@pytest.fixture
def wandb(monkeypatch):
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def log_of(root, clock=None, **section):
    clock = clock or FakeClock()
    store = open_store(str(root)) if "://" not in str(root) else None
    return WandbLog(
        WandbSection(**section), name="demo", root=str(root), config={"seed": 1}, store=store, monotonic=clock
    )


def test_the_run_is_described(wandb, tmp_path):
    log_of(tmp_path, project="p", entity="team", notes="n", mode="offline")
    wanted = {"project": "p", "entity": "team", "notes": "n", "name": "demo", "mode": "offline", "resume": "allow"}
    assert {name: wandb.options[name] for name in wanted} == wanted
    assert wandb.options["config"] == {"seed": 1}
    assert wandb.options["id"] == run_id("demo", str(tmp_path))
    assert wandb.options["dir"] == str(tmp_path)


def test_the_id_is_stable_and_tells_storages_apart():
    assert run_id("demo", "s3://a/demo") == run_id("demo", "s3://a/demo")
    assert run_id("demo", "s3://a/demo") != run_id("demo", "s3://b/demo")


def test_entries_are_those_of_open_clip(wandb, tmp_path):
    log = log_of(tmp_path)
    log.train({"train/loss": 1.0}, 7)
    log.evaluation({"val/epoch": 2.0, "val/clip_val_loss": 3.0}, 8, 2)
    log.close()
    assert wandb.logged == [
        ({"train/loss": 1.0, "step": 7}, 7),
        ({"val/epoch": 2.0, "val/clip_val_loss": 3.0, "epoch": 2.0}, 8),
    ]
    assert wandb.finished == 1


def test_offline_logs_are_copied_to_object_storage(wandb, tmp_path):
    clock, store, section = FakeClock(), open_store(str(tmp_path)), WandbSection(mode="offline")
    log = WandbLog(section, name="demo", root="s3://bucket/demo", config={}, store=store, monotonic=clock)
    log.flush()
    assert store.list("wandb/") == []
    clock.advance(UPLOAD_SECONDS)
    log.flush()
    assert store.read("wandb/offline-run-1-x/run-x.wandb") == b"begin"
    log.close()
    assert store.read("wandb/offline-run-1-x/run-x.wandb") == b"all"


def test_online_logs_are_not_copied(wandb, tmp_path):
    store = open_store(str(tmp_path))
    WandbLog(WandbSection(), name="demo", root="s3://bucket/demo", config={}, store=store).close()
    assert store.list("wandb/") == []


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SpecError, match="not installed") as caught:
        log_of(tmp_path)
    assert "clipctl[wandb]" in caught.value.hint


def test_the_real_package_offline(tmp_path):
    """In a process of its own: the package patches and warns at will."""
    import subprocess

    code = (
        "import sys; from clip_trainer.log.wandb import WandbLog\n"
        "from clipctl.contract.sections import WandbSection\n"
        "log = WandbLog(WandbSection(mode='offline'), name='demo', root=sys.argv[1], config={'seed': 1}, store=None)\n"
        "log.train({'train/loss': 1.5}, 0); log.evaluation({'val/epoch': 1.0}, 1, 1); log.close()\n"
    )
    patient = {**os.environ, "WANDB__SERVICE_WAIT": "300"}  # its service starts when the machine has time for it
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=patient)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"train/loss" in content
    assert b"val/epoch" in content

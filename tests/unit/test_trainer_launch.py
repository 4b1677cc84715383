import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from clip_testkit.agents import wait_until
from clip_trainer.elastic.coordinator_server import CoordinatorServer
from clip_trainer.elastic.member_settings import parse_endpoint
from clip_trainer.elastic.settings import LaunchSettings
from clip_trainer.elastic.watchdog import HealthLimits
from clip_trainer.launch import _coordination, checkpoint_grace, health_limits, main
from clipctl.contract.errors import CorruptError, MissingError


@pytest.fixture
def config(tmp_path):
    def write(content):
        file = tmp_path / "run.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write


@pytest.mark.parametrize(("seconds", "grace"), [(60, 55), (5, 4), (10, 8), (3600, 3595)])
def test_workers_get_the_grace_period_less_a_reserve(config, seconds, grace):
    assert checkpoint_grace(config({"spec": {"scale": {"grace_seconds": seconds}}})) == grace


def test_default_grace(config):
    assert checkpoint_grace(config({"spec": {}})) == 55


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"spec": 3}', '{"spec": {"scale": {"grace_seconds": "x"}}}'])
def test_configuration_that_is_none(config, content):
    with pytest.raises(CorruptError, match=r"run\.json"):
        checkpoint_grace(config(content))


def test_missing_configuration(tmp_path):
    with pytest.raises(MissingError, match=r"nothing\.json"):
        checkpoint_grace(tmp_path / "nothing.json")


def test_errors_are_one_line_and_an_exit_code(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CLIPCTL_PARENT_PID", raising=False)
    assert main([str(tmp_path / "nothing.json")]) == 66
    assert capsys.readouterr().out.startswith("[agent] cannot read the run's configuration")


def test_bad_settings_end_with_64(config, capsys, monkeypatch):
    monkeypatch.delenv("CLIPCTL_PARENT_PID", raising=False)
    monkeypatch.setenv("PET_NNODES", "lots")
    assert main([str(config({"spec": {}}))]) == 64
    assert "PET_NNODES" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "seconds"),
    [({"spec": {}}, 10.0), ({"spec": {"health": {}}}, 10.0), ({"spec": {"health": {"hang_seconds": 90}}}, 90.0)],
)
def test_watchdog_is_as_patient_as_the_run_says(config, content, seconds):
    assert health_limits(config(content)) == replace(HealthLimits(), hang_seconds=seconds)


@pytest.mark.parametrize("health", ["3", '{"hang_seconds": "x"}', '{"hang_seconds": null}'])
def test_health_that_is_none(config, health):
    with pytest.raises(CorruptError, match=r"run\.json"):
        health_limits(config(f'{{"spec": {{"health": {health}}}}}'))


def test_run_of_one_node_has_its_coordinator_in_the_agent():
    before = [thread for thread in threading.enumerate() if thread.name == "coordinator"]
    settings = LaunchSettings.from_environment({})
    with _coordination(settings) as (endpoint, verdict):
        with socket.create_connection(parse_endpoint(endpoint), 60):
            assert endpoint.startswith("127.0.0.1:")
        verdict.close(66)
        wait_until(lambda: verdict.closed() is not None, 60, "the verdict")
        assert verdict.closed() == 66
    assert [thread for thread in threading.enumerate() if thread.name == "coordinator"] == before


def test_run_with_an_endpoint_uses_that_coordinator():
    server = CoordinatorServer().start()
    try:
        settings = LaunchSettings.from_environment({"PET_RDZV_ENDPOINT": f"127.0.0.1:{server.port}"})
        with _coordination(settings) as (endpoint, _):
            assert endpoint == f"127.0.0.1:{server.port}"
    finally:
        server.stop()


def test_launcher_is_small():
    program = "import sys, clip_trainer.launch; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def launch(tmp_path, program, **environment):
    """Run the real launcher with a worker that is this program; its result."""
    (tmp_path / "worker_module.py").write_text(program)
    (tmp_path / "run.json").write_text('{"spec": {"scale": {"grace_seconds": 10}}}')
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PET_", "CLIPCTL_"))}
    return subprocess.run(
        [sys.executable, "-m", "clip_trainer.launch", str(tmp_path / "run.json"), "--worker", "worker_module"],
        env={**variables, "PYTHONPATH": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_workers_get_the_configuration_and_a_place(tmp_path):
    program = "import os, sys\nprint(sys.argv[1:], os.environ['CLIPCTL_SLOT'], os.environ['CLIPCTL_MAX_MEMBERS'])\n"
    done = launch(tmp_path, program, PET_NPROC_PER_NODE="2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "[agent] the run is complete; exit code 0",
        *[f"[local rank {slot}] ['{tmp_path}/run.json'] {slot} 2" for slot in (0, 1)],
    ]


def test_error_of_a_worker_is_the_launchers_and_reaches_the_termination_log(tmp_path):
    program = "import sys\nprint('error: no such bucket.')\nsys.exit(66)\n"
    log = tmp_path / "termination"
    done = launch(tmp_path, program, CLIPCTL_TERMINATION_LOG=str(log))
    assert done.returncode == 66, done.stdout + done.stderr
    assert json.loads(log.read_text()) == {
        "code": 66,
        "cause": "user_error",
        "rank": -1,
        "message": "local rank 0 ended with exit code 66: no such bucket.",
        "exhausted": False,
    }


def test_scratch_files_do_not_stay(tmp_path):
    program = "import os\nprint(os.path.dirname(os.environ['CLIPCTL_BEACON']))\n"
    done = launch(tmp_path, program)
    scratch = next(line for line in done.stdout.splitlines() if "clip-agent-" in line).split()[-1]
    assert not os.path.exists(scratch)

"""Real processes, all of them `sh` or a bare Python: they end by themselves or are killed."""

import io
import os
import signal
import sys
import time

import pytest

from clip_testkit.agents import process_state, processes_with, wait_until
from clip_trainer.elastic import workers
from clip_trainer.elastic.beacon import ENV_BEACON, FileBeacon
from clip_trainer.elastic.workers import LineSink, Worker, worker_name

SECONDS = 60


@pytest.fixture(autouse=True)
def _busy_machine(monkeypatch):
    """The thread that copies the output may get no time for seconds."""
    monkeypatch.setattr(workers, "_OUTPUT_DRAIN", SECONDS)


@pytest.fixture
def start():
    """Start a command (a shell script by default); whatever is left is killed afterwards."""
    started: list[Worker] = []

    def run(script: str, slot: int = 0, command=None, **environment: str) -> tuple[Worker, io.BytesIO]:
        stream = io.BytesIO()
        command = command or ["/bin/sh", "-c", script]
        started.append(Worker(slot, command, {**os.environ, **environment}, LineSink(stream)))
        return started[-1], stream

    yield run
    for worker in started:
        worker.kill()
        wait_until(lambda worker=worker: worker.poll() is not None, SECONDS, "the end of a killed worker")
        worker.last_words()


def end_of(worker):
    wait_until(lambda: worker.poll() is not None, SECONDS, "the worker's end")
    return worker.poll()


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 66", 66), ("kill -9 $$", -9)])
def test_status_and_time_of_the_end(start, script, status):
    before = time.monotonic()
    worker, _ = start(script)
    assert end_of(worker) == status
    assert before <= worker.ended_at <= time.monotonic()
    assert worker.state() == "X"


def test_running_worker_has_no_status(start):
    worker, _ = start("sleep 600")
    assert (worker.poll(), worker.ended_at) == (None, None)
    assert worker.state() in "SRD"


def test_lines_get_the_slot_in_front_while_there_is_no_rank(start):
    worker, stream = start('echo "out"; echo err >&2; printf "no newline"', slot=3)
    assert end_of(worker) == 0
    worker.last_words()
    assert sorted(stream.getvalue().decode().splitlines()) == [
        "[local rank 3] err",
        "[local rank 3] no newline",
        "[local rank 3] out",
    ]


def test_lines_get_the_rank_of_the_moment(start, tmp_path):
    beacon = FileBeacon(tmp_path / "beacon")
    beacon.entered(1, 5)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    worker, stream = start(f"echo one; read _ < {gate}; echo two", **{ENV_BEACON: str(tmp_path / "beacon")})
    wait_until(lambda: b"one" in stream.getvalue(), SECONDS, "the first line")
    beacon.entered(2, 4)
    gate.write_text("go on\n")
    assert end_of(worker) == 0
    worker.last_words()
    assert stream.getvalue() == b"[rank 5] one\n[rank 4] two\n"


def test_beacon_is_read(start, tmp_path):
    beacon = FileBeacon(tmp_path / "beacon")
    beacon.phase("save", 8)
    worker, _ = start("exit 0", **{ENV_BEACON: str(tmp_path / "beacon")})
    assert (worker.reading().phase, worker.reading().step) == ("save", 8)
    other, _ = start("exit 0")
    assert other.reading() is None


def test_name_is_the_rank_once_there_is_one(tmp_path):
    beacon = FileBeacon(tmp_path / "beacon")
    worker = Worker(2, ["true"], {**os.environ, ENV_BEACON: str(tmp_path / "beacon")}, LineSink(io.BytesIO()))
    assert worker_name(2, None) == "local rank 2"
    assert worker_name(2, worker.reading()) == "local rank 2"
    beacon.entered(1, 0)
    assert worker_name(2, worker.reading()) == "rank 0"
    end_of(worker)


def test_last_error_line_is_remembered(start):
    worker, _ = start('echo "error: no such shard. Pack it again."; echo "later chatter"')
    end_of(worker)
    assert worker.last_words() == "no such shard. Pack it again."
    silent, _ = start("exit 1")
    end_of(silent)
    assert silent.last_words() == ""


def test_signal_reaches_the_worker(start):
    worker, stream = start("trap 'exit 75' TERM; echo ready; while :; do sleep 0.05; done")
    wait_until(lambda: b"ready" in stream.getvalue(), SECONDS, "the trap")
    worker.send(signal.SIGTERM)
    assert end_of(worker) == 75
    worker.send(signal.SIGTERM)  # too late for anything


def test_stopped_worker_shows_as_such_and_can_be_killed(start):
    worker, stream = start("echo ready; while :; do sleep 0.05; done")
    wait_until(lambda: b"ready" in stream.getvalue(), SECONDS, "the start")
    worker.send(signal.SIGSTOP)
    wait_until(lambda: worker.state() == "T", SECONDS, "the stop")
    worker.kill()
    assert end_of(worker) == -9


def test_nothing_a_worker_started_survives_it(start):
    marker = f"{os.getpid()}-{time.monotonic_ns()}"
    worker, stream = start(f"GRANDCHILD={marker} sleep 600 & echo started; exit 1")
    assert end_of(worker) == 1
    worker.last_words()
    assert b"started" in stream.getvalue()
    wait_until(lambda: not processes_with("GRANDCHILD", marker), SECONDS, "grandchild to be gone")


def test_killed_worker_leaves_no_zombie(start):
    worker, _ = start("sleep 600")
    worker.kill()
    assert end_of(worker) == -9
    assert process_state(worker.pid) == "X"


def test_broken_log_stream_does_not_stop_anything():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as stream:
        sink = LineSink(stream)
        sink.write(b"", b"nobody reads this\n")
    sink.write(b"", b"and the stream is closed now\n")


def boot(*arguments):
    return [sys.executable, "-m", "clip_trainer.elastic.boot", *arguments]


def test_boot_runs_a_module_as_main_with_its_arguments_and_a_beacon(start, tmp_path):
    (tmp_path / "probe_module.py").write_text(
        "import sys, faulthandler\nfrom clip_trainer.elastic.beacon import beacon_from_environment\n"
        "beacon_from_environment().phase('data', 5)\n"
        "print(__name__, sys.argv[1:], faulthandler.is_enabled())\n"
    )
    worker, stream = start(
        "",
        command=boot("probe_module", "a", "b"),
        PYTHONPATH=str(tmp_path),
        CLIPCTL_PARENT_PID=str(os.getpid()),
        **{ENV_BEACON: str(tmp_path / "beacon")},
    )
    assert end_of(worker) == 0
    worker.last_words()
    assert stream.getvalue() == b"[local rank 0] __main__ ['a', 'b'] True\n"
    assert (worker.reading().phase, worker.reading().step) == ("data", 5)


def test_boot_shows_a_beacon_before_the_module_and_dumps_stacks_on_request(start, tmp_path):
    (tmp_path / "slow_module.py").write_text("import time\n\ndef stuck_here():\n    time.sleep(600)\n\nstuck_here()\n")
    worker, stream = start(
        "",
        command=boot("slow_module"),
        PYTHONPATH=str(tmp_path),
        CLIPCTL_PARENT_PID=str(os.getpid()),
        **{ENV_BEACON: str(tmp_path / "beacon")},
    )
    wait_until(lambda: worker.reading() is not None, SECONDS, "the beacon")
    assert worker.reading().phase == "start"

    def asked():
        worker.send(signal.SIGUSR1)
        return b"stuck_here" in stream.getvalue()

    wait_until(asked, SECONDS, "the stacks")
    worker.kill()
    assert end_of(worker) == -9


def test_worker_whose_agent_is_gone_already_does_not_start(start):
    worker, _ = start("", command=boot("this"), CLIPCTL_PARENT_PID="1")
    assert end_of(worker) == -9

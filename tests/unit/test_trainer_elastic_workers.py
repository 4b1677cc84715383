import io
import os
import signal
import sys
import time

import pytest

from clip_testkit.agents import process_state, processes_with, wait_until
from clip_trainer.elastic.workers import LineSink, Workers


@pytest.fixture
def start():
    """Start a shell script as worker(s); whatever is left is killed afterwards."""
    started: list[Workers] = []

    def run(script: str, ranks=(0,)) -> tuple[Workers, io.BytesIO]:
        stream = io.BytesIO()
        workers = Workers(["/bin/sh", "-c", script], LineSink(stream))
        started.append(workers)
        workers.start({rank: {**os.environ, "RANK": str(rank)} for rank in ranks})
        return workers, stream

    yield run
    for workers in started:
        workers.kill()


def test_all_ended_well(start):
    workers, _ = start("exit 0", ranks=(0, 1))
    assert workers.wait(10)
    assert workers.failures == []
    assert workers.pids == {}


def test_failures_carry_rank_status_and_time(start):
    workers, _ = start('[ "$RANK" = 3 ] && exit 66; exit 0', ranks=(2, 3))
    before = time.monotonic()
    assert workers.wait(10)
    (failure,) = workers.failures
    assert (failure.rank, failure.status) == (3, 66)
    assert before <= failure.at <= time.monotonic()


def test_signal_death_is_a_negative_status(start):
    workers, _ = start("kill -9 $$")
    assert workers.wait(10)
    assert workers.failures[0].status == -9


def test_lines_get_the_rank_in_front(start):
    workers, stream = start('echo "out $RANK"; echo err >&2; printf "no newline"')
    assert workers.wait(10)
    workers.kill()
    lines = stream.getvalue().decode().splitlines()
    assert sorted(lines) == ["[rank 0] err", "[rank 0] no newline", "[rank 0] out 0"]


def test_last_error_line_is_remembered(start):
    workers, _ = start('echo "error: no such shard. Pack it again."; echo "later chatter"')
    assert workers.wait(10)
    workers.kill()
    assert workers.last_words(0) == "no such shard. Pack it again."
    assert workers.last_words(1) == ""


def test_sigterm_reaches_the_worker_and_is_awaited(start):
    workers, _ = start("trap 'exit 75' TERM; echo ready; while :; do sleep 0.05; done")
    wait_until(lambda: workers.poll() and workers.pids, 5, "start")
    time.sleep(0.2)  # until the shell has set its trap
    workers.send(signal.SIGTERM)
    assert workers.wait(10)
    assert [failure.status for failure in workers.failures] == [75]


def test_wait_gives_up_in_time_and_on_request(start):
    workers, _ = start("sleep 30")
    assert not workers.wait(0.05)
    assert not workers.wait(30, until=lambda: True)
    workers.kill()
    assert workers.failures[0].status == -9


def test_nothing_a_worker_started_survives_it(start):
    marker = f"{os.getpid()}-{time.monotonic_ns()}"
    workers, _ = start(f"GRANDCHILD={marker} sleep 60 & sleep 0.3; exit 1")
    wait_until(lambda: processes_with("GRANDCHILD", marker), 5, "grandchild")
    assert workers.wait(10)
    wait_until(lambda: not processes_with("GRANDCHILD", marker), 5, "grandchild to be gone")


def test_kill_leaves_no_zombie(start):
    workers, _ = start("sleep 30", ranks=(0, 1))
    pids = list(workers.pids.values())
    workers.kill()
    assert [process_state(pid) for pid in pids] == ["X", "X"]


def test_next_round_starts_with_a_clean_slate(start):
    workers, _ = start("exit 7")
    assert workers.wait(10)
    assert workers.failures
    workers.start({5: dict(os.environ)})
    assert workers.failures == []
    assert list(workers.pids) == [5]


def test_broken_log_stream_does_not_stop_anything(start):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as stream:
        sink = LineSink(stream)
        sink.write(b"", b"nobody reads this\n")
    sink.write(b"", b"and the stream is closed now\n")


def test_boot_runs_a_module_as_main_with_its_arguments(tmp_path):
    (tmp_path / "probe_module.py").write_text(
        "import sys, faulthandler\nprint(__name__, sys.argv[1:], faulthandler.is_enabled())\n"
    )
    stream = io.BytesIO()
    command = [sys.executable, "-m", "clip_trainer.elastic.boot", "probe_module", "a", "b"]
    workers = Workers(command, LineSink(stream))
    workers.start({0: {**os.environ, "PYTHONPATH": str(tmp_path), "CLIPCTL_PARENT_PID": str(os.getpid())}})
    assert workers.wait(20)
    workers.kill()
    assert workers.failures == []
    assert stream.getvalue() == b"[rank 0] __main__ ['a', 'b'] True\n"


def test_worker_whose_agent_is_gone_already_does_not_start():
    stream = io.BytesIO()
    command = [sys.executable, "-m", "clip_trainer.elastic.boot", "this"]
    workers = Workers(command, LineSink(stream))
    workers.start({0: {**os.environ, "CLIPCTL_PARENT_PID": "1"}})
    assert workers.wait(20)
    workers.kill()
    assert workers.failures[0].status == -9

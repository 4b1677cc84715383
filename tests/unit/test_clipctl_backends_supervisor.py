"""Supervisor and attempt with fake processes and a fake clock."""

import json
import signal

import pytest

from clipctl.backends.attempt import COORDINATOR_RESTARTS, FINISH_SECONDS
from clipctl.backends.localpods import Processes, pod_environment
from clipctl.backends.localstate import RunDirectory, Submission
from clipctl.backends.supervisor import Supervisor
from clipctl.contract import names
from clipctl.contract.spec import RunSpec

SPEC = {
    "name": "digits",
    "model": {"name": "ViT-tiny-8-32"},
    "data": {"train": "/data"},
    "train": {"global_batch": 8, "steps": 10},
    "checkpoint": {"path": "/runs"},
    "scale": {"nodes": {"min": 1, "max": 2}, "grace_seconds": 10},
    "retry": {"restarts_in_place": 2, "backoff_seconds": 10, "attempts": {"hang": 1, "infrastructure": 1}},
}


class FakeProcess:
    def __init__(self, pid, on_term):
        self.pid = pid
        self.status = None
        self.on_term = on_term
        self.signals = []

    def poll(self):
        return self.status

    def send_signal(self, number):
        self.signals.append(number)
        if self.status is None and (number == signal.SIGKILL or self.on_term is not None):
            self.status = -9 if number == signal.SIGKILL else self.on_term

    def wait(self, timeout=None):
        return self.status


class World:
    """Fake processes; `events[t]` is called when the clock passes second t."""

    def __init__(self):
        self.now = 1000.0
        self.pods = {}
        self.started = []
        self.coordinators = []
        self.events = {}
        self.terminations = {}
        self.on_term = 75
        self.seen = []

    def free_port(self):
        return 4000 + len(self.coordinators)

    def start_coordinator(self, port):
        self.coordinators.append(FakeProcess(port, None))
        return self.coordinators[-1]

    def start_pod(self, index, attempt, port):
        self.pods[index] = FakeProcess(100 + len(self.started), self.on_term)
        self.started.append((index, attempt, port))
        return self.pods[index]

    def termination(self, index):
        return self.terminations.get(index)

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for moment in [m for m in sorted(self.events) if self.now - 1000 >= m]:
            self.events.pop(moment)()
        assert self.now < 1000 + 100_000, "the supervisor never ends"


@pytest.fixture
def world(tmp_path):
    made = World()
    directory = RunDirectory(tmp_path / "digits")
    directory.prepare()
    directory.write_submission(Submission("/", 1000.0, 1000.0, 1))

    def run(**changes):
        spec = json.loads(json.dumps(SPEC))
        for path, value in changes.items():
            section, _, key = path.partition("__")
            spec[section][key] = value
        made.supervisor = Supervisor(directory, RunSpec.model_validate(spec), made, made.clock, made.sleep)
        final = made.supervisor.run()
        assert directory.read_state() == final
        assert all(p.status is not None for p in [*made.pods.values(), *made.coordinators]), "something still runs"
        return final

    made.run = run
    made.directory = directory
    return made


def end(world, index, status, **termination):
    def now():
        world.pods[index].status = status
        world.terminations[index] = {"code": status, **termination} if termination else None

    return now


def both(*actions):
    return lambda: [action() for action in actions]


def test_undisturbed_run_succeeds(world):
    world.events = {5: end(world, 0, 0), 6: end(world, 1, 0)}
    final = world.run()
    assert (final.state, final.reason, final.exit_code) == ("Succeeded", "Completed", 0)
    assert world.started == [(0, 1, 4000), (1, 1, 4000)]
    assert [pod.phase for pod in final.pods] == ["Succeeded", "Succeeded"]
    assert final.finished_at == pytest.approx(1006, abs=1)


def test_state_can_be_watched_while_it_runs(world):
    world.events = {
        3: lambda: world.seen.append(world.directory.read_state()),
        5: both(end(world, 0, 0), end(world, 1, 0)),
    }
    world.run()
    (state,) = world.seen
    assert (state.state, [pod.phase for pod in state.pods]) == ("Running", ["Running", "Running"])
    assert [pod.pid for pod in state.pods] == [100, 101]


def test_killed_launcher_is_started_again_after_a_moment(world):
    world.events = {5: end(world, 1, -9), 20: both(end(world, 0, 0), lambda: end(world, 1, 0)())}
    final = world.run()
    assert final.exit_code == 0
    assert world.started[2] == (1, 1, 4000)
    assert final.pods[1].restarts == 1


def test_restarts_of_a_launcher_are_limited_and_then_a_new_attempt_is_made(world):
    for moment in (5, 10, 20):
        world.events[moment] = lambda: end(world, 1, -9)()
    world.events[60] = lambda: [end(world, 0, 0)(), end(world, 1, 0)()]
    final = world.run()
    assert (final.attempt, final.causes, final.exit_code) == (2, ("infrastructure",), 0)
    assert [started[1] for started in world.started] == [1, 1, 1, 1, 2, 2]
    assert world.started[-1][2] != world.started[0][2]


def test_launcher_that_used_up_its_restarts_is_not_started_again(world):
    world.events = {5: end(world, 0, 79, cause="hang", exhausted=True, message="rank 0 hung")}
    world.events[40] = lambda: [end(world, 0, 0)(), end(world, 1, 0)()]
    final = world.run()
    assert (final.attempt, final.causes) == (2, ("hang",))


def test_the_other_launchers_checkpoint_before_a_new_attempt(world):
    world.events = {5: end(world, 0, 79, cause="hang", exhausted=True)}
    world.events[5.5] = lambda: world.seen.extend(world.pods[1].signals)
    world.events[40] = lambda: [end(world, 0, 0)(), end(world, 1, 0)()]
    world.run()
    assert world.seen == [signal.SIGTERM]


def test_budget_of_attempts_runs_out(world):
    for moment in (5, 50):
        world.events[moment] = lambda: end(world, 0, 79, cause="hang", exhausted=True, message="rank 0 hung")()
    final = world.run()
    assert (final.state, final.reason, final.exit_code) == ("Failed", "RetryBudgetExhausted", 79)
    assert final.causes == ("hang", "hang")
    assert final.message == "worker-0: rank 0 hung"


def test_permanent_error_fails_at_once(world):
    world.events = {5: end(world, 1, 66, cause="user_error", message="no such data set")}
    final = world.run()
    assert (final.state, final.reason, final.exit_code, final.attempt) == ("Failed", "PermanentError", 66, 1)
    assert final.message == "worker-1: no such data set"


def test_backoff_before_the_next_attempt(world):
    world.events = {5: end(world, 0, 79, cause="hang", exhausted=True)}
    world.events[12] = lambda: world.seen.append(world.directory.read_state())
    world.events[40] = lambda: [end(world, 0, 0)(), end(world, 1, 0)()]
    world.run(retry__backoff_seconds=20)
    assert [(s.state, s.reason, s.attempt) for s in world.seen] == [("Restarting", "hang", 2)]


def test_stop_waits_for_the_checkpoint(world):
    world.on_term = None
    world.events = {
        5: lambda: world.supervisor.request_stop(),
        8: lambda: [end(world, 0, 75)(), end(world, 1, 75)()],
    }
    final = world.run()
    assert (final.state, final.exit_code) == ("Stopped", 75)
    assert final.finished_at == pytest.approx(1008, abs=1)


def test_stop_kills_what_exceeds_its_grace(world):
    world.on_term = None
    world.events = {5: lambda: world.supervisor.request_stop()}
    final = world.run()
    assert final.state == "Stopped"
    assert final.finished_at == pytest.approx(1015, abs=1)
    assert world.pods[0].signals == [signal.SIGTERM, signal.SIGKILL]


def test_stop_of_a_run_that_just_finished(world):
    world.on_term = 0
    world.events = {5: lambda: world.supervisor.request_stop()}
    assert world.run().state == "Succeeded"


def test_stop_that_meets_a_permanent_error(world):
    world.on_term = 77
    world.events = {5: lambda: world.supervisor.request_stop()}
    final = world.run()
    assert (final.state, final.exit_code) == ("Failed", 77)


def test_stop_between_two_attempts(world):
    world.events = {
        5: end(world, 0, 79, cause="hang", exhausted=True),
        9: lambda: world.supervisor.request_stop(),
    }
    assert world.run().state == "Stopped"


def test_deadline(world):
    final = world.run(retry__deadline_seconds=30)
    assert (final.state, final.reason, final.exit_code) == ("Failed", "DeadlineExceeded", 75)
    assert final.finished_at == pytest.approx(1030, abs=2)
    assert world.pods[0].signals == [signal.SIGTERM]


def test_deadline_that_meets_the_end_of_the_run(world):
    world.on_term = 0
    assert world.run(retry__deadline_seconds=30).state == "Succeeded"


def test_coordinator_is_started_again_at_its_port(world):
    def lose():
        world.coordinators[-1].status = 1

    world.events = {5: lose, 10: both(end(world, 0, 0), end(world, 1, 0))}
    assert world.run().exit_code == 0
    assert [one.pid for one in world.coordinators] == [4000, 4000]


def test_coordinator_that_cannot_stay_ends_the_attempt(world):
    def hopeless(port):
        one = FakeProcess(port, None)
        one.status = 69
        world.coordinators.append(one)
        return one

    world.start_coordinator = hopeless
    final = world.run()
    assert (final.state, final.exit_code, final.causes) == ("Failed", 69, ("infrastructure",) * 2)
    assert len(world.coordinators) == 2 * (COORDINATOR_RESTARTS + 1)


def test_one_complete_launcher_is_enough_after_a_while(world):
    world.events = {5: end(world, 0, 0)}
    final = world.run()
    assert final.state == "Succeeded"
    assert final.finished_at == pytest.approx(1005 + FINISH_SECONDS, abs=2)


def test_launcher_that_dies_after_the_end_is_not_restarted(world):
    world.events = {5: end(world, 0, 0), 6: end(world, 1, 75)}
    assert world.run().state == "Succeeded"
    assert len(world.started) == 2


def test_attempts_are_numbered_on_from_the_submission(world):
    world.directory.write_submission(Submission("/", 1000.0, 1000.0, 4))
    world.events = {5: both(end(world, 0, 0), end(world, 1, 0))}
    assert world.run().attempt == 4
    assert world.started[0][1] == 4


# environment of the launchers


def test_launchers_see_what_a_cluster_would_set():
    spec = RunSpec.model_validate(SPEC)
    found = pod_environment(spec, 3, 4711, "1")
    assert found["PET_NNODES"] == "1:2"
    assert found["PET_NPROC_PER_NODE"] == "1"
    assert found["PET_RDZV_ENDPOINT"] == "127.0.0.1:4711"
    assert found["PET_RDZV_ID"] == names.rendezvous_id("digits", spec.digest(), 3)
    assert found["PET_MAX_RESTARTS"] == "2"
    assert found["CLIPCTL_ATTEMPT"] == "3"
    assert found["PET_RDZV_CONF"] == "last_call_timeout=3"
    assert found["GLOO_SOCKET_IFNAME"] == "lo"


def test_environment_of_the_run_is_passed_on():
    spec = RunSpec.model_validate({**SPEC, "env": {"OMP_NUM_THREADS": "3", "AWS_ENDPOINT_URL": "http://x"}})
    found = pod_environment(spec, 1, 1, "1")
    assert (found["OMP_NUM_THREADS"], found["AWS_ENDPOINT_URL"]) == ("3", "http://x")


def test_termination_message_is_read_if_there_is_one(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.prepare()
    processes = Processes(directory, RunSpec.model_validate(SPEC), {}, "x")
    assert processes.termination(0) is None
    directory.termination_file(0).write_text("{")
    assert processes.termination(0) is None
    directory.termination_file(0).write_text('{"code": 66}')
    assert processes.termination(0) == {"code": 66}
    assert 1024 < processes.free_port() < 65536

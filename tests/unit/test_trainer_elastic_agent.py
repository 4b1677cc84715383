"""The agent's decisions, with a scripted world instead of processes, store and clock."""

import signal
from dataclasses import dataclass, field, replace

import pytest

from clip_trainer.elastic.agent import Agent, Hooks
from clip_trainer.elastic.policy import Failure
from clip_trainer.elastic.rendezvous import ClosedError, NotEnoughNodesError, Round, StoreLostError
from clip_trainer.elastic.settings import LaunchSettings

SETTINGS = LaunchSettings(
    min_nodes=1, max_nodes=2, workers_per_node=2, endpoint="store:1", rendezvous_id="r-1", max_restarts=2
)


@dataclass
class World:
    """Everything outside the agent. `script[n]` is what happens to the workers of round n."""

    script: list = field(default_factory=list)
    now: float = 0.0
    log: list[str] = field(default_factory=list)
    progress: int = -1
    oom_kills: int = 0
    connects: list = field(default_factory=list)
    meeting: object = None
    agent: Agent = None
    sleeps: list[float] = field(default_factory=list)

    def connect(self):
        if self.connects:
            outcome = self.connects.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        return self.meeting

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


class FakeMeeting:
    def __init__(self, world):
        self.world = world
        self.joins = 0
        self.join_errors = []
        self.waiting = False
        self.closed = False
        self.lost = False
        self.told = None
        self.finished = []
        self.others_finish = True
        self.left = False

    def _check(self):
        if self.lost:
            raise StoreLostError("connection refused")

    def join(self):
        self._check()
        self.joins += 1
        if self.join_errors:
            raise self.join_errors.pop(0)
        self.waiting = False
        return Round(0, 2, "10.0.0.1", 1234)

    def someone_waits(self):
        self._check()
        return self.waiting

    def is_closed(self):
        self._check()
        return self.closed

    def mark_finished(self):
        self._check()
        self.finished.append(self.joins)

    def all_finished(self):
        self._check()
        return self.others_finish

    def close(self, code):
        self._check()
        if self.told is None:
            self.told = code
        self.closed = True

    def verdict(self):
        self._check()
        return self.told

    def leave(self):
        self._check()
        self.left = True


class FakeWorkers:
    """Runs rounds from a script: a callable that may change the world, or the workers' statuses after some polls."""

    def __init__(self, world):
        self.world = world
        self.rounds = 0
        self.statuses = {}
        self.started = False
        self.signals = []
        self.on_term = 75
        self.polls = 0
        self.words = {}

    def start(self, environments):
        self.started = True
        self.rounds += 1
        self.statuses = dict.fromkeys(environments)
        self.polls = 0

    def poll(self):
        self.polls += 1
        if self.polls == 2 and self.world.script:
            step = self.world.script.pop(0)
            if callable(step):
                step()
            else:
                self.statuses.update(step)
        return bool(self.pids)

    @property
    def pids(self):
        return {rank: 1000 + rank for rank, status in self.statuses.items() if status is None}

    @property
    def failures(self):
        return [Failure(r, s, self.world.now) for r, s in self.statuses.items() if s not in (None, 0)]

    def last_words(self, rank):
        return self.words.get(rank, "")

    def send(self, number):
        self.signals.append(number)
        for rank in self.pids:
            self.statuses[rank] = self.on_term

    def wait(self, seconds, until=lambda: False):
        if self.pids and not until():
            self.world.now += seconds
        return not self.pids

    def kill(self):
        for rank in self.pids:
            self.statuses[rank] = -9


@pytest.fixture
def world():
    made = World()
    made.meeting = FakeMeeting(made)
    made.workers = FakeWorkers(made)

    def start(settings=SETTINGS, grace=20.0):
        hooks = Hooks(
            connect=made.connect,
            environments=lambda place: {place.node_rank * 2 + i: {} for i in range(2)},
            progress=lambda: made.progress,
            oom_kills=lambda: made.oom_kills,
            log=made.log.append,
            clock=lambda: made.now,
            sleep=made.sleep,
        )
        made.agent = Agent(settings, made.workers, grace, hooks)
        return made.agent.run()

    made.start = start
    return made


DONE = {0: 0, 1: 0}


def test_undisturbed_run(world):
    world.script = [DONE]
    outcome = world.start()
    assert outcome.code == 0
    assert world.meeting.told == 0
    assert world.meeting.finished == [1]


def test_killed_worker_restarts_the_group_in_place(world):
    world.script = [{1: -9}, DONE]
    assert world.start().code == 0
    assert world.workers.rounds == 2
    assert "rank 1 was killed by SIGKILL" in world.log[1]


def test_the_other_workers_get_a_moment_and_are_killed(world):
    world.script = [{1: 70}, DONE]
    world.start()
    assert world.workers.signals == []  # no SIGTERM: with a peer gone there is nothing to save
    assert world.now >= 1.0


def test_budget_without_progress_ends_with_the_root_cause(world):
    world.script = [{0: 75, 1: 79}] * 5
    outcome = world.start()
    assert (outcome.code, outcome.cause, outcome.rank, outcome.exhausted) == (79, "hang", 1, True)
    assert world.workers.rounds == 3
    assert world.meeting.left
    assert not world.meeting.closed  # the others may train on without us


def test_progress_refills_the_budget(world):
    def crash_after_progress():
        world.progress += 10
        world.workers.statuses[0] = 1

    world.script = [crash_after_progress] * 6 + [DONE]
    assert world.start().code == 0
    assert world.workers.rounds == 7


def test_backoff_between_restarts(world):
    world.script = [{0: 1}] * 4
    world.start(replace(SETTINGS, max_restarts=3))
    assert [seconds for seconds in world.sleeps if seconds >= 1 or seconds == 0] == [0.0, 1.0, 2.0]


def test_permanent_error_ends_everybody_at_once(world):
    world.workers.words = {1: "shard-000003.tar does not match its index."}
    world.script = [{0: 75, 1: 65}]
    outcome = world.start()
    assert (outcome.code, outcome.cause, outcome.rank) == (65, "data", 1)
    assert outcome.message.endswith("shard-000003.tar does not match its index.")
    assert world.workers.rounds == 1
    assert (world.meeting.closed, world.meeting.told) == (True, 65)


def test_out_of_memory_is_recognised_by_the_counter(world):
    def oom():
        world.oom_kills += 1
        world.workers.statuses[0] = -9

    world.script = [oom] * 3
    outcome = world.start()
    assert (outcome.code, outcome.cause, world.workers.rounds) == (137, "out_of_memory", 2)


def test_old_oom_kills_do_not_count(world):
    world.oom_kills = 4
    world.script = [{0: -9}, {0: -9}, {0: -9}]
    assert world.start().code == 75


def test_node_that_wants_in_gets_a_round_after_a_checkpoint(world):
    world.script = [lambda: setattr(world.meeting, "waiting", True), DONE]
    assert world.start().code == 0
    assert world.workers.signals == [signal.SIGTERM]
    assert world.meeting.joins == 2


def test_regrouping_costs_no_restart(world):
    world.script = [lambda: setattr(world.meeting, "waiting", True)] * 5 + [DONE]
    assert world.start().code == 0
    assert world.workers.rounds == 6


def test_worker_that_had_no_handler_yet_may_die_of_the_regroup_signal(world):
    world.workers.on_term = -signal.SIGTERM
    world.script = [lambda: setattr(world.meeting, "waiting", True)] * 5 + [DONE]
    assert world.start().code == 0


def test_worker_that_ignores_the_regroup_signal_is_killed(world):
    world.workers.on_term = None
    world.script = [lambda: setattr(world.meeting, "waiting", True), DONE]
    assert world.start(grace=20.0).code == 0
    assert world.now >= 20.0


def test_error_found_while_regrouping_is_not_lost(world):
    world.workers.on_term = 73
    world.script = [lambda: setattr(world.meeting, "waiting", True)] * 3
    outcome = world.start()
    assert (outcome.code, outcome.exhausted) == (73, True)


def test_run_that_finishes_while_regrouping_is_finished(world):
    world.workers.on_term = 0
    world.script = [lambda: setattr(world.meeting, "waiting", True)]
    assert world.start().code == 0
    assert world.workers.rounds == 1


def test_stop_is_passed_on_and_ends_with_75(world):
    world.script = [lambda: world.agent.request_stop()]
    outcome = world.start()
    assert (outcome.code, outcome.cause) == (75, "preemption")
    assert world.workers.signals == [signal.SIGTERM]
    assert world.meeting.left


def test_second_stop_changes_nothing(world):
    world.script = [lambda: (world.agent.request_stop(), world.agent.request_stop())]
    assert world.start().code == 75


def test_stop_of_workers_that_are_too_slow(world):
    world.workers.on_term = None
    world.script = [lambda: world.agent.request_stop()]
    outcome = world.start(grace=7.0)
    assert (outcome.code, world.now) == (75, pytest.approx(7.0, abs=1.0))
    assert "longer than the grace" in outcome.message
    assert world.workers.pids == {}


def test_stop_of_a_run_that_just_finished_is_success(world):
    world.workers.on_term = 0
    world.script = [lambda: world.agent.request_stop()]
    assert world.start().code == 0


def test_stop_that_meets_a_permanent_error_reports_it(world):
    world.workers.on_term = 77
    world.script = [lambda: world.agent.request_stop()]
    assert world.start().code == 77


def test_stop_while_waiting_for_peers(world):
    def interrupted():
        world.agent.request_stop()

    world.meeting.join = interrupted
    assert world.start().code == 75
    assert world.workers.rounds == 0


def test_stop_during_the_backoff(world):
    def sleep(seconds):
        world.now += seconds
        if seconds >= 1:
            world.agent.request_stop()

    world.sleep = sleep
    world.script = [{0: 1}] * 9
    outcome = world.start(replace(SETTINGS, max_restarts=9))
    assert (outcome.code, world.workers.rounds) == (75, 2)


def test_closed_by_another_node_with_an_error(world):
    def closed():
        world.meeting.close(66)

    world.script = [closed]
    outcome = world.start()
    assert (outcome.code, outcome.cause) == (66, "user_error")
    assert world.workers.pids == {}


def test_closed_because_the_run_is_complete_waits_for_our_workers(world):
    def closed():
        world.meeting.close(0)

    world.script = [closed]
    assert world.start().code == 0


@pytest.mark.parametrize(("told", "code"), [(0, 0), (65, 65), (None, 75)])
def test_joining_a_closed_group_gives_its_verdict(world, told, code):
    world.meeting.told = told
    world.meeting.join_errors = [ClosedError()]
    assert world.start().code == code
    assert world.workers.rounds == 0


def test_too_few_nodes_is_worth_another_try(world):
    world.meeting.join_errors = [NotEnoughNodesError()]
    assert world.start().code == 75


def test_store_that_comes_late_is_waited_for(world):
    world.connects = [StoreLostError("refused")] * 3
    world.script = [DONE]
    assert world.start().code == 0
    assert world.sleeps[:3] == [0.5, 1.0, 2.0]


def test_store_that_never_comes_is_69(world):
    world.connects = [StoreLostError("refused")] * 1000
    outcome = world.start(replace(SETTINGS, rendezvous_seconds=60.0))
    assert (outcome.code, outcome.cause) == (69, "infrastructure")
    assert "store:1" in outcome.message
    assert 60 <= world.now < 70


def test_store_lost_while_joining_is_connected_again(world):
    world.meeting.join_errors = [StoreLostError("reset")]
    world.script = [DONE]
    assert world.start().code == 0
    assert world.meeting.joins == 2


def test_training_goes_on_without_the_store_and_regroups_at_the_next(world):
    successor = FakeMeeting(world)

    def lose():
        world.meeting.lost = True
        world.meeting = successor  # what the next connect finds

    world.script = [lose, DONE]
    first = world.meeting
    assert world.start().code == 0
    assert (first.joins, successor.joins) == (1, 1)
    assert world.workers.signals == [signal.SIGTERM]
    assert any("training goes on" in line for line in world.log)


def test_run_that_ends_without_the_store_is_complete(world):
    def end():
        world.meeting.lost = True
        world.workers.statuses = dict(DONE)

    world.script = [end]
    assert world.start().code == 0


def test_finished_node_waits_for_the_others(world):
    world.meeting.others_finish = False
    world.script = [DONE]
    assert world.start().code == 0
    assert world.now >= 60.0  # they never say so; our own workers know that the run is complete


def test_finished_node_joins_again_if_another_one_failed_at_the_end(world):
    def done_but_peer_returns():
        world.workers.statuses = dict(DONE)
        world.meeting.others_finish = False
        world.meeting.waiting = True

    def all_done():
        world.meeting.others_finish = True
        world.workers.statuses = dict(DONE)

    world.script = [done_but_peer_returns, all_done]
    assert world.start().code == 0
    assert world.meeting.finished == [1, 2]

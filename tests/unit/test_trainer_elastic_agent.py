"""The agent's decisions, on a made-up node: no processes, no coordinator, no clock."""

import signal

import pytest

from clip_testkit.fakeworkers import FakeNode


def script(node, *fates):
    """The n-th start of any slot does what `fates[n - 1]` says: a status, or a function; afterwards all end with 0."""

    def play(worker):
        worker.enter()
        fate = fates[worker.start - 1] if worker.start <= len(fates) else 0
        if isinstance(fate, dict):
            fate = fate.get(worker.slot)
        if callable(fate):
            node.after(5.0, lambda: fate(worker))
        elif fate is not None:
            node.after(5.0, lambda: worker.end(fate))

    node.script = play


@pytest.fixture
def node():
    return FakeNode()


def counts(node):
    return [len(node.of(slot)) for slot in range(len(node.slots))]


def test_undisturbed_run(node):
    script(node, 0)
    outcome = node.run()
    assert (outcome.code, outcome.message) == (0, "the run is complete")
    assert counts(node) == [1, 1]


def test_agent_waits_for_all_its_workers(node):
    script(node, {0: 0})
    node.after(500.0, lambda: node.of(1)[0].end(0))
    assert node.run().code == 0
    assert node.now > 1499


def test_killed_worker_is_replaced_alone_and_at_once(node):
    script(node, {1: -9})
    node.after(30.0, lambda: node.of(0)[0].end(0))
    assert node.run().code == 0
    assert counts(node) == [1, 2]
    assert node.of(0)[0].signals == []
    assert node.log[0] == "rank 1 was killed by SIGKILL; restart 1 of 2 without progress, at once"
    assert node.started_at[2] - 1005.0 < 0.3


def test_finished_worker_is_not_started_again(node):
    script(node, {0: 0, 1: 70}, {1: 70})
    assert node.run().code == 0
    assert counts(node) == [1, 3]


def test_budget_without_progress_ends_with_the_root_cause(node):
    script(node, *[{0: 75, 1: 79}] * 5)
    outcome = node.run()
    assert (outcome.code, outcome.cause, outcome.rank, outcome.exhausted) == (79, "hang", 1, True)
    assert counts(node) == [3, 3]
    assert node.verdict.code is None  # the others may train on without us


def test_workers_of_a_node_that_gives_up_save_what_they_have(node):
    script(node, *[{1: 70}] * 5)
    outcome = node.run()
    assert (outcome.code, outcome.exhausted) == (70, True)
    assert node.of(0)[0].signals == [signal.SIGTERM]
    assert node.running() == []


def test_progress_refills_the_budget(node):
    def crash_after_progress(worker):
        node.committed += 10
        node.after(1.0, lambda: worker.end(1))

    script(node, *[{0: crash_after_progress}] * 6)
    node.after(100.0, lambda: node.of(1)[0].end(0))
    assert node.run().code == 0
    assert counts(node) == [7, 1]


def test_progress_of_neighbours_is_none_of_a_worker_that_never_joins(node):
    def play(worker):
        if worker.slot == 0:
            worker.enter()
        else:
            node.after(5.0, lambda: worker.end(1))
        node.committed += 10

    node.script = play
    outcome = node.run()
    assert (outcome.exhausted, outcome.rank) == (True, -1)
    assert outcome.message == "local rank 1 ended with exit code 1"
    assert counts(node) == [1, 3]


def test_backoff_between_restarts():
    node = FakeNode(slots=1, max_restarts=5)
    script(node, *[1] * 9)
    node.run()
    waits = [b - a - 5.0 for a, b in zip(node.started_at, node.started_at[1:], strict=False)]
    assert [round(wait) for wait in waits] == [0, 1, 2, 4, 8]


def test_neighbour_keeps_running_during_a_backoff(node):
    script(node, *[{1: 70}] * 2)
    node.after(60.0, lambda: node.of(0)[0].end(0))
    assert node.run().code == 0
    assert counts(node) == [1, 3]


def test_permanent_error_ends_everybody(node):
    def fail(worker):
        worker.words = "shard-000003.tar does not match its index."
        worker.end(65)
        node.of(0)[0].end(75)

    script(node, {1: fail})
    outcome = node.run()
    assert (outcome.code, outcome.cause, outcome.rank) == (65, "data", 1)
    assert outcome.message == "rank 1 ended with exit code 65: shard-000003.tar does not match its index."
    assert not outcome.exhausted
    assert counts(node) == [1, 1]
    assert node.verdict.code == 65


def test_neighbours_of_a_permanent_error_get_a_moment_and_are_killed(node):
    script(node, {1: 66})
    assert node.run().code == 66
    assert node.of(0)[0].signals == []
    assert node.of(0)[0].status == -9
    assert 1015 <= node.now < 1020


def test_victim_is_not_blamed_though_its_end_is_seen_first():
    node = FakeNode(max_restarts=0)

    def play(worker):
        worker.enter()
        worker.on_term = -11 if worker.slot == 1 else 75

    node.script = play
    node.after(5.0, lambda: node.of(0)[0].end(75))
    outcome = node.run()
    assert outcome.rank == 1
    assert "SIGSEGV" in outcome.message


def test_neighbour_that_dies_of_our_own_signal_is_not_blamed():
    node = FakeNode(max_restarts=0)

    def play(worker):
        worker.on_term = -signal.SIGTERM

    node.script = play
    node.after(5.0, lambda: node.of(0)[0].end(75))
    assert node.run().message == "local rank 0 ended with exit code 75"


def test_old_failures_are_not_blamed():
    node = FakeNode(slots=2, max_restarts=1)
    script(node, {0: 70}, {}, {})
    node.after(100.0, lambda: node.of(1)[0].end(75))
    node.after(200.0, lambda: node.of(1)[1].end(75))
    outcome = node.run()
    assert (outcome.code, outcome.rank, outcome.exhausted) == (75, 1, True)


def test_out_of_memory_is_recognised_by_the_counter(node):
    def oom(worker):
        node.oom_kills += 1
        worker.end(-9)

    script(node, *[{0: oom}] * 3)
    outcome = node.run()
    assert (outcome.code, outcome.cause) == (137, "out_of_memory")
    assert counts(node) == [2, 1]


def test_old_oom_kills_do_not_count():
    node = FakeNode(slots=1)
    node.oom_kills = 4
    node.agent._oom_kills = 4
    script(node, *[-9] * 3)
    assert node.run().code == 75


def test_hanging_worker_is_named_dumped_killed_and_replaced(node):
    def hang(worker):
        worker.silent_since = node.now

    script(node, {1: hang})
    node.after(60.0, lambda: node.of(0)[0].end(0))
    assert node.run().code == 0
    assert counts(node) == [1, 2]
    assert node.of(1)[0].signals == [signal.SIGUSR1, signal.SIGCONT]
    assert node.log[0].startswith("rank 1 hangs: no heartbeat for 10.")
    assert node.log[1].startswith("rank 1 hung: no heartbeat for 10.")
    assert node.started_at[2] - 1005.0 < 12.0


def test_hanging_again_and_again_is_reported_as_such(node):
    def hang(worker):
        worker.silent_since = node.now

    script(node, *[{1: hang}] * 3)
    outcome = node.run()
    assert (outcome.code, outcome.cause, outcome.rank, outcome.exhausted) == (79, "hang", 1, True)


# stopping


def test_stop_is_passed_on_and_ends_with_75(node):
    script(node, None)
    node.after(5.0, node.agent.request_stop)
    outcome = node.run()
    assert (outcome.code, outcome.cause, outcome.message) == (75, "preemption", "stopped after a checkpoint")
    assert [worker.signals for worker in node.workers] == [[signal.SIGTERM]] * 2
    assert node.verdict.code is None


def test_second_stop_changes_nothing(node):
    script(node, None)
    node.after(5.0, lambda: (node.agent.request_stop(), node.agent.request_stop()))
    assert node.run().code == 75
    assert [worker.signals for worker in node.workers] == [[signal.SIGTERM]] * 2


def test_stop_of_workers_that_are_too_slow():
    node = FakeNode(grace=7.0)

    def deaf(worker):
        worker.on_term = None

    node.script = deaf
    node.after(5.0, node.agent.request_stop)
    outcome = node.run()
    assert outcome.code == 75
    assert "longer than the grace" in outcome.message
    assert node.running() == []
    assert 1012 <= node.now < 1013


def test_stop_of_a_run_that_just_finished_is_success(node):
    def finish(worker):
        worker.on_term = 0

    node.script = finish
    node.after(5.0, node.agent.request_stop)
    assert node.run().code == 0


def test_stop_that_meets_a_permanent_error_reports_it(node):
    def refuse(worker):
        worker.on_term = 77

    node.script = refuse
    node.after(5.0, node.agent.request_stop)
    outcome = node.run()
    assert (outcome.code, outcome.cause) == (77, "user_error")
    assert node.verdict.code == 77


def test_worker_without_a_handler_yet_may_die_of_the_signal(node):
    def young(worker):
        worker.on_term = -signal.SIGTERM

    node.script = young
    node.after(0.2, node.agent.request_stop)
    assert (node.run().code, counts(node)) == (75, [1, 1])


def test_stop_during_a_backoff():
    node = FakeNode(slots=1, max_restarts=9)
    script(node, *[1] * 9)
    node.after(11.0, node.agent.request_stop)
    outcome = node.run()
    assert (outcome.code, counts(node)) == (75, [2])


def test_stop_before_the_first_worker(node):
    node.agent.request_stop()
    assert (node.run().code, node.workers) == (75, [])


# the run's verdict


def test_closed_by_another_node_with_an_error(node):
    script(node, None)
    node.after(5.0, lambda: node.verdict.close(66))
    outcome = node.run()
    assert (outcome.code, outcome.cause) == (66, "user_error")
    assert outcome.message == "another node found an error that trying again cannot mend"
    assert node.running() == []


def test_closed_by_our_own_worker_names_it(node):
    def close(worker):
        worker.words = "no such bucket."
        node.verdict.close(66)
        node.after(1.0, lambda: worker.end(66))
        node.after(1.5, lambda: node.of(0)[0].end(66))

    script(node, {1: close})
    outcome = node.run()
    assert (outcome.code, outcome.rank) == (66, 1)
    assert outcome.message.endswith("no such bucket.")


def test_closed_because_the_run_is_complete_waits_for_our_workers(node):
    script(node, None)
    node.after(5.0, lambda: node.verdict.close(0))
    node.after(100.0, lambda: [worker.end(0) for worker in node.workers])
    assert node.run().code == 0
    assert [worker.status for worker in node.workers] == [0, 0]
    assert 1100 <= node.now < 1101


def test_worker_that_never_ends_after_a_complete_run_is_killed(node):
    script(node, {0: 0})
    node.after(6.0, lambda: node.verdict.close(0))
    assert node.run().code == 0
    assert node.of(1)[0].status == -9


def test_failure_after_the_run_is_complete_does_not_matter(node):
    script(node, None)
    node.after(5.0, lambda: node.verdict.close(0))
    node.after(6.0, lambda: [worker.end(75) for worker in node.workers])
    assert (node.run().code, counts(node)) == (0, [1, 1])


def test_stop_while_the_last_worker_finishes(node):
    script(node, {0: 0})
    node.after(6.0, lambda: node.verdict.close(0))
    node.after(8.0, node.agent.request_stop)
    assert node.run().code == 0
    assert node.of(1)[0].signals == [signal.SIGTERM]
    assert node.now < 1010


def test_run_that_was_closed_before_starts_nothing(node):
    node.verdict.close(65)
    outcome = node.run()
    assert (outcome.code, outcome.cause, node.workers) == (65, "data", [])


def test_worker_that_cannot_be_killed_does_not_keep_the_agent(node):
    def wedge(worker):
        worker.on_term = worker.on_kill = None

    node.script = wedge
    node.after(5.0, node.agent.request_stop)
    assert node.run().code == 75
    assert node.running()
    assert node.now < 1100

import signal
from dataclasses import replace

import pytest

from clip_testkit.fakeworkers import FakeNode
from clip_trainer.elastic.policy import diagnose
from clip_trainer.elastic.slot import DUMP_SECONDS, LOOK_SECONDS


@pytest.fixture
def node():
    return FakeNode(slots=1)


@pytest.fixture
def slot(node):
    """A slot whose first worker runs and is in the group."""
    (slot,) = node.slots
    slot.start_if_due(node.now)
    node.of(0)[0].enter()
    return slot


def worker_of(node):
    return node.of(0)[-1]


def pass_time(node, slot, seconds):
    """Look at the slot ten times a second; the first failure."""
    end = node.now + seconds
    while node.now < end:
        node.now += 0.1
        failure = slot.look(node.now)
        if failure is not None:
            return failure
    return None


def test_slot_without_a_worker_has_nothing_to_tell(node):
    (slot,) = node.slots
    assert (slot.pid, slot.done, slot.starts, slot.look(node.now)) == (None, False, 0, None)
    slot.send(signal.SIGTERM)
    slot.kill()


def test_one_worker_at_a_time(node, slot):
    slot.start_if_due(node.now + 1)
    assert (slot.starts, slot.pid, len(node.workers)) == (1, worker_of(node).pid, 1)


def test_healthy_worker_is_left_alone(node, slot):
    assert pass_time(node, slot, 60) is None
    assert worker_of(node).signals == []


def test_end_with_0_is_the_end(node, slot):
    worker_of(node).end(0)
    assert slot.look(node.now) is None
    assert (slot.done, slot.pid) == (True, None)
    slot.start_if_due(node.now + 1000)
    assert slot.starts == 1


@pytest.mark.parametrize("status", [0, 70])
def test_output_is_waited_for_before_an_end_counts(node, slot, status):
    """When its last slot is done the agent ends, and with it the thread that copies what the worker has printed."""
    worker, asked = worker_of(node), []
    worker.last_words = lambda: asked.append((slot.done, slot.pid)) or ""
    worker.end(status)
    slot.look(node.now)
    assert asked == [(False, worker.pid)]


def test_failure_carries_rank_status_time_and_words(node, slot):
    worker_of(node).words = "disk full."
    worker_of(node).enter(rank=5)
    worker_of(node).end(73)
    failure = pass_time(node, slot, 1)
    assert (failure.rank, failure.status, failure.name, failure.words) == (5, 73, "rank 5", "disk full.")
    assert failure.at == pytest.approx(node.now)
    assert slot.pid is None


def test_worker_that_failed_before_it_had_a_rank(node):
    (slot,) = node.slots
    slot.start_if_due(node.now)
    worker_of(node).end(70)
    failure = slot.look(node.now)
    assert (failure.rank, failure.name) == (-1, "local rank 0")


def test_next_worker_starts_when_it_is_due(node, slot):
    for wait in (0, 1):
        worker_of(node).end(70)
        failure = slot.look(node.now)
        assert slot.restart(diagnose([failure]), node.now)
        slot.start_if_due(node.now + wait - 0.01)
        assert worker_of(node).status == 70
        slot.start_if_due(node.now + wait)
        assert worker_of(node).status is None
    assert slot.starts == 3
    worker_of(node).end(70)
    assert not slot.restart(diagnose([slot.look(node.now)]), node.now)


def test_hang_is_dumped_then_killed_then_reported(node, slot):
    worker = worker_of(node)
    worker.silent_since = node.now
    assert pass_time(node, slot, 10.0) is None
    assert worker.signals == []
    failure = pass_time(node, slot, 3.0)
    assert worker.signals == [signal.SIGUSR1, signal.SIGCONT]
    assert (failure.rank, failure.status) == (0, 79)
    assert failure.words.startswith("no heartbeat for 10.")
    assert node.log == [f"rank 0 hangs: {failure.words}. It writes its stacks, then it is killed."]
    assert node.now - worker.silent_since < 10 + 3 * LOOK_SECONDS + DUMP_SECONDS


def test_stacks_get_time_before_the_kill(node, slot):
    worker = worker_of(node)
    worker.silent_since = node.now
    while not worker.signals:
        pass_time(node, slot, 0.1)
    asked = node.now
    pass_time(node, slot, 5.0)
    assert worker.ended_at - asked >= DUMP_SECONDS


def test_process_in_disk_sleep_is_waited_for(node, slot):
    worker_of(node).silent_since = node.now
    worker_of(node).process_state = "D"
    assert pass_time(node, slot, 300) is None
    assert node.log == []


def test_worker_that_waits_for_the_hanging_one_is_not_killed(node, slot):
    worker = worker_of(node)
    worker.reading = lambda: replace(worker.beacon, waiting=True, heartbeat=node.now)
    assert pass_time(node, slot, 300) is None


def test_worker_that_ends_well_while_it_is_suspected_has_ended_well(node, slot):
    worker = worker_of(node)
    worker.silent_since = node.now
    while not worker.signals:
        pass_time(node, slot, 0.1)
    worker.end(0)
    assert pass_time(node, slot, 1.0) is None
    assert slot.done


def test_hang_of_one_worker_is_not_held_against_the_next(node, slot):
    worker_of(node).silent_since = node.now
    failure = pass_time(node, slot, 20)
    slot.restart(diagnose([failure]), node.now)
    slot.start_if_due(node.now)
    worker_of(node).enter()
    assert pass_time(node, slot, 60) is None
    worker_of(node).end(70)
    assert pass_time(node, slot, 1).status == 70


def start_later(node, slot):
    node.now += 100
    slot.start_if_due(node.now)


def crash(node, slot):
    worker_of(node).end(1)
    failure = pass_time(node, slot, 1)
    return slot.restart(diagnose([failure]), node.now)


def test_step_stored_with_the_worker_in_the_group_is_progress(node, slot):
    for step in range(5):
        pass_time(node, slot, 1)
        node.committed = step
        pass_time(node, slot, 1)
        assert crash(node, slot)
        assert slot.budget.used == 1
        start_later(node, slot)
        worker_of(node).enter()


def test_step_stored_just_before_the_end_is_progress(node, slot):
    pass_time(node, slot, 1)
    crash(node, slot)
    start_later(node, slot)
    worker_of(node).enter()
    pass_time(node, slot, 1)
    node.committed = 5
    assert crash(node, slot)
    assert slot.budget.used == 1


def test_step_stored_before_the_worker_came_into_the_group_is_none_of_its_progress(node, slot):
    crash(node, slot)
    start_later(node, slot)
    node.committed = 5
    worker_of(node).enter()
    pass_time(node, slot, 1)
    crash(node, slot)
    assert slot.budget.used == 2


def test_worker_that_starts_is_not_in_the_group_yet(node, slot):
    crash(node, slot)
    start_later(node, slot)
    worker_of(node).enter(rank=-1, generation=0)
    pass_time(node, slot, 1)
    node.committed = 5
    pass_time(node, slot, 1)
    crash(node, slot)
    assert slot.budget.used == 2


def test_signals_reach_the_worker(node, slot):
    slot.send(signal.SIGTERM)
    assert worker_of(node).signals == [signal.SIGTERM]
    slot.look(node.now)
    slot.send(signal.SIGTERM)
    assert worker_of(node).signals == [signal.SIGTERM]


def test_kill_is_seen_at_the_next_look(node, slot):
    slot.kill()
    assert slot.look(node.now).status == -9
    assert slot.pid is None

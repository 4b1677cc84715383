"""The work queue: duplicates merge, a key is never worked on twice at once, failures back off."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_operator.workqueue import MAX_BACKOFF_SECONDS, DelayQueue, WorkQueue


def test_duplicates_merge_and_the_earlier_time_counts() -> None:
    queue: DelayQueue[str] = DelayQueue()
    queue.add("a", 10)
    queue.add("a", 5)
    queue.add("a", 20)
    assert len(queue) == 1
    assert queue.take(4) is None
    assert queue.next_due() == 5
    assert queue.take(5) == "a"
    assert queue.take(100) is None


def test_the_longest_due_key_comes_first_even_if_added_later() -> None:
    queue: DelayQueue[str] = DelayQueue()
    for key, due in (("a", 3), ("b", 1), ("c", 2)):
        queue.add(key, due)
    assert [queue.take(10) for _ in range(4)] == ["b", "c", "a", None]


def test_a_key_is_not_handed_out_while_it_is_worked_on() -> None:
    queue: DelayQueue[str] = DelayQueue()
    queue.add("a", 0)
    assert queue.take(0) == "a"
    queue.add("a", 0)
    assert queue.take(1) is None
    assert queue.next_due() is None
    queue.done("a")
    assert queue.take(1) == "a"


def test_failures_back_off_and_success_starts_anew() -> None:
    queue: DelayQueue[str] = DelayQueue()
    waits = []
    for _ in range(9):
        queue.add("a", 0)
        queue.take(10**9)
        waits.append(queue.failed("a", 0))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    queue.take(10**9)
    queue.done("a")
    queue.add("a", 0)
    queue.take(0)
    assert queue.failed("a", 0) == 1


def test_events_do_not_shorten_the_back_off() -> None:
    queue: DelayQueue[str] = DelayQueue()
    queue.add("a", 0)
    queue.take(0)
    queue.add("a", 0)
    assert queue.failed("a", 0, at_least=7) == 7
    assert queue.take(6.9) is None
    assert queue.take(7) == "a"


def test_jitter_spreads_keys_that_failed_together() -> None:
    factors = iter([1.0, 1.9])
    queue: DelayQueue[str] = DelayQueue(lambda: next(factors))
    for key in "ab":
        queue.add(key, 0)
        queue.take(0)
    assert (queue.failed("a", 0), queue.failed("b", 0)) == (1.0, 1.9)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "take", "done", "fail"])), max_size=60))
def test_no_request_is_ever_lost(steps: list[tuple[str, str]]) -> None:
    queue: DelayQueue[str] = DelayQueue()
    wanted: set[str] = set()
    active: set[str] = set()
    now = 0.0
    for key, step in steps:
        now += 1
        if step == "add":
            queue.add(key, now)
            wanted.add(key)
        elif step == "take":
            taken = queue.take(now)
            if taken is not None:
                assert taken not in active
                active.add(taken)
                wanted.discard(taken)
        elif key in active:
            active.discard(key)
            if step == "fail":
                queue.failed(key, now)
                wanted.add(key)
            else:
                queue.done(key)
    for key in active:
        queue.done(key)
    found = {queue.take(now + MAX_BACKOFF_SECONDS + 1) for _ in range(4)} - {None}
    assert found == wanted


def test_threads_share_the_keys_and_end_on_close() -> None:
    queue: WorkQueue[int] = WorkQueue(lambda: 0.0)
    seen: list[int] = []
    full = threading.Event()

    def work() -> None:
        while (key := queue.take()) is not None:
            seen.append(key)
            queue.done(key)
            if len(seen) == 50:
                full.set()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for key in range(50):
        queue.add(key)
    assert full.wait(60)
    queue.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert sorted(seen) == list(range(50))
    assert len(queue) == 0


@pytest.mark.parametrize("again", [None, 5.0])
def test_done_may_ask_for_another_look(again: float | None) -> None:
    queue: WorkQueue[str] = WorkQueue(lambda: 0.0)
    queue.add("a")
    assert queue.take() == "a"
    queue.done("a", again)
    assert len(queue) == (0 if again is None else 1)

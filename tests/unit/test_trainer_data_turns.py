"""Work in the order of batches, behind a gate."""

import threading

from clip_trainer.data.loading.turns import TurnQueue


def taking(queue):
    taken = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    thread.start()
    return thread, taken


def test_earlier_turns_come_first_and_equal_ones_as_they_came():
    queue = TurnQueue()
    queue.open(9)
    for turn, item in ((2, "c"), (1, "a"), (1, "b"), (0, "first"), (2, "d")):
        queue.put(turn, item)
    assert [queue.take() for _ in range(5)] == ["first", "a", "b", "c", "d"]


def test_items_need_not_be_comparable():
    queue = TurnQueue()
    queue.open(0)
    items = [object(), object()]
    for item in items:
        queue.put(0, item)
    assert [queue.take(), queue.take()] == items


def test_nothing_passes_before_its_turn_is_open():
    queue = TurnQueue()
    queue.open(1)
    queue.put(2, "late")
    thread, taken = taking(queue)
    thread.join(0.05)
    assert not taken
    queue.open(2)
    thread.join(60)
    assert taken == ["late"]


def test_a_waiting_thread_gets_what_comes():
    queue = TurnQueue()
    queue.open(0)
    thread, taken = taking(queue)
    queue.put(0, "now")
    thread.join(60)
    assert taken == ["now"]


def test_closing_forgets_the_work_and_sends_everybody_home():
    queue = TurnQueue()
    queue.put(0, "work")
    thread, taken = taking(queue)
    queue.close()
    thread.join(60)
    assert taken == [None]
    queue.open(5)
    assert queue.take() is None

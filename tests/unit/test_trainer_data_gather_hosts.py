"""The line of requests by host: limits hold at every moment, and nobody waits for a busy host."""

import random

import pytest

from clip_trainer.data.gather.hosts import HostQueue


def drain(queue, now=0.0):
    """Everything that may start now, without giving anything back."""
    taken = []
    while (found := queue.take(now)) is not None:
        taken.append(found)
    return taken


def test_one_host_gets_its_limit_and_the_others_their_turn():
    queue = HostQueue(2)
    for number in range(4):
        queue.put("a", number)
    queue.put("b", 4)
    assert drain(queue) == [("a", 0), ("b", 4), ("a", 1)]
    assert queue.take(0.0) is None
    assert queue.wait(0.0) is None
    queue.release("a", 0.0)
    assert drain(queue) == [("a", 2)]
    queue.release("b", 0.0)
    assert queue.take(0.0) is None


def test_items_of_a_host_start_in_order():
    queue = HostQueue(1)
    for number in range(5):
        queue.put("a", number)
    order = []
    while (found := queue.take(0.0)) is not None:
        order.append(found[1])
        queue.release("a", 0.0)
    assert order == [0, 1, 2, 3, 4]


def test_hosts_take_turns():
    queue = HostQueue(8)
    for number in range(3):
        for host in "abc":
            queue.put(host, number)
    assert [host for host, _ in drain(queue)] == list("abcabcabc")


def test_a_delay_lies_between_the_starts():
    queue = HostQueue(4, delay=2.0)
    for number in range(3):
        queue.put("a", number)
    assert drain(queue, 10.0) == [("a", 0)]
    assert queue.wait(10.5) == pytest.approx(1.5)
    assert drain(queue, 11.9) == []
    assert drain(queue, 12.0) == [("a", 1)]
    queue.release("a", 12.5)
    queue.release("a", 12.5)
    assert drain(queue, 13.9) == []
    assert drain(queue, 14.0) == [("a", 2)]


def test_a_delay_outlives_an_empty_line():
    queue = HostQueue(4, delay=2.0)
    queue.put("a", 0)
    assert drain(queue, 0.0) == [("a", 0)]
    queue.release("a", 0.5)
    queue.put("a", 1)
    assert drain(queue, 1.0) == []
    assert drain(queue, 2.0) == [("a", 1)]


def test_an_item_for_later_waits_and_lets_others_pass():
    queue = HostQueue(1)
    queue.put("a", "again", not_before=5.0)
    queue.put("a", "new")
    assert drain(queue, 1.0) == [("a", "new")]
    queue.release("a", 1.0)
    assert queue.wait(1.0) == pytest.approx(4.0)
    assert drain(queue, 5.0) == [("a", "again")]


def test_a_paused_host_starts_nothing_until_then():
    queue = HostQueue(2)
    for number in range(3):
        queue.put("a", number)
    queue.put("b", 9)
    assert queue.take(0.0) == ("a", 0)
    queue.pause("a", 30.0)
    queue.pause("a", 20.0)  # the longer pause counts
    assert drain(queue, 1.0) == [("b", 9)]
    assert queue.wait(1.0) == pytest.approx(29.0)
    queue.release("a", 1.0)
    assert drain(queue, 29.9) == []
    assert drain(queue, 30.0) == [("a", 1), ("a", 2)]


def test_a_host_can_ask_for_more_time_between_requests():
    queue = HostQueue(2)
    for number in range(3):
        queue.put("a", number)
    assert queue.take(0.0) == ("a", 0)
    queue.slow_down("a", 4.0)
    queue.slow_down("a", 1.0)  # never less than was asked for before
    queue.release("a", 1.0)
    assert drain(queue, 3.9) == []
    assert drain(queue, 4.0) == [("a", 1)]
    queue.release("a", 4.0)
    assert drain(queue, 7.9) == []
    assert drain(queue, 8.0) == [("a", 2)]


def test_hosts_are_forgotten():
    queue = HostQueue(2, delay=1.0)
    for number in range(1000):
        queue.put(f"host{number}", number)
        assert queue.take(float(number)) is not None
        queue.release(f"host{number}", float(number))
    assert len(queue._hosts) <= 2


@pytest.mark.parametrize("seed", range(20))
def test_limits_hold_whatever_happens(seed):
    """A random history: what is out never exceeds the limit, starts keep their distance, everything gets its turn."""
    draw = random.Random(seed)
    per_host, delay = draw.randint(1, 3), draw.choice([0.0, 0.5])
    queue, out, started, put, now = HostQueue(per_host, delay), [], [], 0, 0.0
    last_start = {}
    for _ in range(2000):
        action = draw.random()
        now += draw.random() * 0.2
        if action < 0.3:
            queue.put(draw.choice("abc"), put, not_before=draw.choice([0.0, now + 1.0]))
            put += 1
        elif action < 0.6 and out:
            queue.release(out.pop(draw.randrange(len(out))), now)
        elif (found := queue.take(now)) is not None:
            host, item = found
            assert now - last_start.get(host, -1.0) >= delay
            last_start[host] = now
            out.append(host)
            started.append(item)
            assert out.count(host) <= per_host
    while len(started) < put:
        for host in out:
            queue.release(host, now)
        out = []
        assert queue.wait(now) is not None
        now += queue.wait(now)
        while (found := queue.take(now)) is not None:
            out.append(found[0])
            started.append(found[1])
    assert sorted(started) == list(range(put))

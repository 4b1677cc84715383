import itertools
import threading

import pytest

from clip_trainer.data.bench.timing import Timing, time_work


def ticking(step=1.0):
    """A clock that advances whenever it is read."""
    return itertools.count(0.0, step).__next__


def test_work_is_done_until_the_time_is_up():
    done = []
    timing = time_work(lambda item: done.append(item) or 2, itertools.count(), threads=1, seconds=5, clock=ticking())
    # The clock is read at the start, where it says 0, and after every item; after the fifth it says 5.
    assert done == [0, 1, 2, 3, 4]
    assert timing.samples == 10
    assert timing.seconds == 6


def test_every_thread_does_something_however_short_the_time():
    assert time_work(lambda item: 1, itertools.count(), threads=3, seconds=0).samples == 3


def test_or_until_there_is_nothing_left():
    timing = time_work(lambda item: 1, iter(range(3)), threads=1, seconds=1000, clock=ticking())
    assert timing.samples == 3


def test_cpu_time_is_taken_on_both_ends():
    timing = time_work(
        lambda item: 1, iter(range(3)), threads=1, seconds=1000, clock=ticking(), cpu_clock=iter((10.0, 12.5)).__next__
    )
    assert timing.cpu_seconds == 2.5


def test_threads_share_the_items():
    seen, together = [], threading.Barrier(3, timeout=60)

    def work(item):
        together.wait()  # only passes if three threads are at work at once
        seen.append(item)
        return 1

    assert time_work(work, iter(range(9)), threads=3, seconds=60).samples == 9
    assert sorted(seen) == list(range(9))


def test_what_the_work_raises_comes_out():
    def work(item):
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        time_work(work, iter(range(9)), threads=2, seconds=60)


def test_rates():
    timing = Timing(samples=100, seconds=4.0, cpu_seconds=2.0)
    assert (timing.rate, timing.cpu_per_sample) == (25.0, 0.02)
    assert (Timing(0, 0.0, 0.0).rate, Timing(0, 1.0, 1.0).cpu_per_sample) == (0.0, 0.0)

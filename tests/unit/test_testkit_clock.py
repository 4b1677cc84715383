"""The clock that tests move by hand."""

import pytest

from clip_testkit.clock import FakeClock


def test_it_stands_still_by_itself():
    clock = FakeClock(5.0)
    assert [clock(), clock()] == [5.0, 5.0]


def test_it_moves_when_told():
    clock = FakeClock(5.0)
    clock.advance(2.5)
    clock.sleep(1.0)
    assert clock() == 8.5
    assert clock.slept == [1.0]


def test_a_wall_clock_can_be_set_back_but_time_does_not_run_backwards():
    clock = FakeClock(5.0)
    clock.set_back(3.0)
    assert clock() == 2.0
    with pytest.raises(AssertionError):
        clock.advance(-1.0)

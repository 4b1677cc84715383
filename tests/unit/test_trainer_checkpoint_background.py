"""The thread that saves: one at a time, polite, and ready to give up."""

import os
import threading

import pytest

from clip_trainer.checkpoint.background import AbandonedError, Background, Cancellation, yield_to_training
from clipctl.contract.errors import ExitCode


class TestBackground:
    def test_nothing_to_wait_for(self):
        background = Background()
        assert background.wait()
        assert not background.busy

    def test_busy_until_the_work_ends(self):
        background, end = Background(), threading.Event()
        background.start(end.wait)
        assert background.busy
        assert not background.wait(0.0)
        end.set()
        assert background.wait()
        assert not background.busy

    def test_one_after_the_other(self):
        background, order = Background(), []
        for number in range(3):
            background.start(lambda number=number: order.append(number))
            assert background.wait()
        assert order == [0, 1, 2]

    def test_two_at_a_time_are_a_mistake(self):
        background, end = Background(), threading.Event()
        background.start(end.wait)
        with pytest.raises(AssertionError):
            background.start(end.wait)
        end.set()
        background.wait()

    def test_it_does_not_keep_the_process(self):
        background, seen = Background(), []
        background.start(lambda: seen.append(threading.current_thread().daemon))
        background.wait()
        assert seen == [True]


def test_only_the_thread_itself_gets_a_lower_priority():
    before, seen = os.getpriority(os.PRIO_PROCESS, 0), []

    def work():
        yield_to_training()
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0] >= max(before, 10)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


class TestCancellation:
    def test_it_passes_until_it_is_cancelled(self):
        cancellation = Cancellation()
        cancellation.check()
        cancellation.pause(0.0)
        cancellation.cancel()
        for action in (cancellation.check, lambda: cancellation.pause(3600.0)):
            with pytest.raises(AbandonedError, match="group of ranks has changed") as caught:
                action()
            assert caught.value.code == ExitCode.TRY_AGAIN

    def test_it_ends_a_pause(self):
        cancellation, ended = Cancellation(), []

        def work():
            try:
                cancellation.pause(3600.0)
            except AbandonedError:
                ended.append(True)

        thread = threading.Thread(target=work)
        thread.start()
        cancellation.cancel()
        thread.join()
        assert ended == [True]

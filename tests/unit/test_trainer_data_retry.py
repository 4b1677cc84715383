"""Retries: bounded, jittered, and counted against the lack of progress."""

import pytest

from clip_trainer.data.storage.retry import BusyError, Failures, LastingError, RetryPolicy
from clipctl.contract.errors import ClipError, CorruptError, MissingError, PermissionDeniedError, UnavailableError


class Flaky:
    def __init__(self, failures, error=UnavailableError):
        self.left, self.error = failures, error

    def __call__(self):
        if self.left:
            self.left -= 1
            raise self.error("no answer")
        return "answer"


def never(seconds):
    pytest.fail("waited")


def busy(seconds):
    error = BusyError("busy")
    error.retry_after = seconds
    return error


def test_retries_are_bounded_jittered_and_counted():
    waits, retried = [], []
    policy = RetryPolicy(attempts=5, base=1.0, cap=3.0, sleep=waits.append, draw=lambda: 0.5)
    assert policy.run(Flaky(4), lambda: retried.append(1)) == "answer"
    assert waits == [0.5, 1.0, 1.5, 1.5]
    assert len(retried) == 4
    with pytest.raises(UnavailableError):
        policy.run(Flaky(5))


def test_jitter_reaches_from_nothing_to_the_whole():
    waits = []
    for share in (0.0, 1.0):
        RetryPolicy(base=2.0, sleep=waits.append, draw=lambda share=share: share).run(Flaky(1))
    assert waits == [0.0, 2.0]
    draws = {RetryPolicy().draw() for _ in range(20)}
    assert len(draws) > 1
    assert all(0 <= draw < 1 for draw in draws)


@pytest.mark.parametrize("error", [MissingError, PermissionDeniedError, CorruptError, LastingError])
def test_what_waiting_cannot_mend_is_not_retried(error):
    with pytest.raises(ClipError):
        RetryPolicy(sleep=never).run(Flaky(1, error))


def test_a_single_attempt_never_waits():
    with pytest.raises(UnavailableError):
        RetryPolicy(attempts=1, sleep=never).run(Flaky(1))
    assert RetryPolicy(attempts=1, sleep=never).run(Flaky(0)) == "answer"


def test_progress_makes_earlier_failures_count_no_more():
    waits = []
    failures = Failures(RetryPolicy(attempts=3, base=1.0, sleep=waits.append, draw=lambda: 1.0))
    for _ in range(50):
        failures.wait_after(UnavailableError("x"))
        failures.wait_after(UnavailableError("x"))
        failures.progressed()
    assert waits == [1.0, 2.0] * 50
    failures.wait_after(UnavailableError("x"))
    failures.wait_after(UnavailableError("x"))
    last = UnavailableError("the last")
    with pytest.raises(UnavailableError) as caught:
        failures.wait_after(last)
    assert caught.value is last


@pytest.mark.parametrize(("asked", "waited"), [(0.0, 0.5), (7.0, 7.5), (1e9, 20.5)])
def test_a_service_is_left_alone_as_long_as_it_asks_within_bounds(asked, waited):
    waits = []
    policy = RetryPolicy(base=1.0, longest_request=20.0, sleep=waits.append, draw=lambda: 0.5)
    Failures(policy).wait_after(busy(asked))
    assert waits == [waited]


def test_errors_keep_their_exit_code():
    assert BusyError("x").code == LastingError("x").code == UnavailableError("x").code

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipctl.backends.localpolicy import (
    LONGEST_ATTEMPT_BACKOFF,
    LONGEST_POD_BACKOFF,
    PodEnd,
    attempt_backoff,
    give_up_reason,
    may_restart,
    pod_backoff,
    read_pod_end,
)
from clipctl.contract import names
from clipctl.contract.sections import AttemptBudget, RetrySection

RETRY = RetrySection(restarts_in_place=3, backoff_seconds=10, attempts=AttemptBudget(hang=2, out_of_memory=1))
SAID = {"code": 79, "cause": "hang", "rank": 1, "message": "rank 1 ended with exit code 79", "exhausted": True}


def test_launcher_explains_its_end():
    assert read_pod_end("worker-0", 79, SAID) == PodEnd(
        79, "hang", "worker-0: rank 1 ended with exit code 79", exhausted=True
    )


def test_killed_launcher_could_not_explain_anything():
    end = read_pod_end("worker-1", -9, SAID)  # an old message must not be believed
    assert (end.code, end.cause, end.exhausted) == (75, names.CAUSE_INFRASTRUCTURE, False)
    assert end.message == "worker-1 was killed by SIGKILL"


def test_unknown_signal():
    assert "signal 250" in read_pod_end("worker-1", -250, None).message


def test_message_of_another_end_is_ignored():
    assert read_pod_end("worker-0", 66, SAID) == PodEnd(66, names.CAUSE_USER_ERROR, "worker-0: exit code 66")


@pytest.mark.parametrize("termination", [None, [], "text", {}, {"code": 70, "cause": "sabotage"}])
def test_odd_messages_are_survived(termination):
    assert read_pod_end("worker-0", 70, termination).cause == names.CAUSE_INFRASTRUCTURE


def test_pod_backoff_doubles_up_to_its_bound():
    assert [pod_backoff(n) for n in (1, 2, 3, 4, 5, 6, 60)] == [
        1,
        2,
        4,
        8,
        16,
        LONGEST_POD_BACKOFF,
        LONGEST_POD_BACKOFF,
    ]


def end(code=75, cause=names.CAUSE_INFRASTRUCTURE, exhausted=False):
    return PodEnd(code, cause, "", exhausted)


def test_restarts_in_place_are_counted():
    assert [may_restart(end(), restarts, RETRY) for restarts in (0, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("ending", [end(code=65), end(code=64), end(exhausted=True)])
def test_ends_that_a_restart_cannot_mend(ending):
    assert not may_restart(ending, 0, RETRY)


def test_each_cause_has_its_own_budget():
    assert attempt_backoff(["hang"], RETRY) == 10
    assert attempt_backoff(["hang", "hang"], RETRY) == 20
    assert attempt_backoff(["hang", "hang", "hang"], RETRY) is None
    assert attempt_backoff(["hang", "hang", "out_of_memory"], RETRY) == 40
    assert attempt_backoff(["out_of_memory", "hang", "out_of_memory"], RETRY) is None


@pytest.mark.parametrize("cause", [names.CAUSE_USER_ERROR, names.CAUSE_DATA])
def test_what_the_user_must_mend_gets_no_further_attempt(cause):
    assert attempt_backoff([cause], RETRY) is None


def test_attempt_backoff_is_bounded():
    assert attempt_backoff(["preemption"] * 40, RETRY) == LONGEST_ATTEMPT_BACKOFF


@given(st.lists(st.sampled_from(names.CAUSES), min_size=1, max_size=60))
def test_every_sequence_of_failures_ends(causes):
    retry = RetrySection(attempts=AttemptBudget(preemption=5, node_lost=5, infrastructure=5, hang=5, out_of_memory=5))
    allowed = attempt_backoff(causes, retry)
    assert allowed is None or (0 <= allowed <= LONGEST_ATTEMPT_BACKOFF and causes.count(causes[-1]) <= 5)


def test_reason_for_giving_up():
    assert give_up_reason(end(code=66)) == names.REASON_USER_ERROR
    assert give_up_reason(end()) == names.REASON_BUDGET_EXHAUSTED

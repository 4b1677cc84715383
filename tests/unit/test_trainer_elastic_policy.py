import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.elastic.policy import (
    KILLED_FOR_MEMORY,
    LONGEST_BACKOFF,
    Diagnosis,
    Failure,
    RestartBudget,
    cause_of,
    diagnose,
)
from clipctl.contract import names
from clipctl.contract.errors import PERMANENT_CODES, ExitCode

statuses = st.one_of(st.sampled_from([int(code) for code in ExitCode if code]), st.integers(-31, -1), st.just(1))


def failed(*statuses: int) -> list[Failure]:
    return [Failure(rank, status, float(rank)) for rank, status in enumerate(statuses)]


def test_lone_failure_is_its_own_cause():
    found = diagnose(failed(73))
    assert found == Diagnosis(73, names.CAUSE_INFRASTRUCTURE, 0, "rank 0 ended with exit code 73")


def test_hang_is_told_with_its_signs():
    found = diagnose([Failure(3, 79, 1.0, words="no heartbeat for 11.0 s in compute at step 5")])
    assert found == Diagnosis(79, names.CAUSE_HANG, 3, "rank 3 hung: no heartbeat for 11.0 s in compute at step 5")


def test_worker_without_a_rank_is_called_by_its_name_and_quoted():
    found = diagnose([Failure(-1, 69, 1.0, "worker 2", "storage does not answer.")])
    assert (found.rank, found.message) == (-1, "worker 2 ended with exit code 69: storage does not answer.")


def test_peers_that_lost_the_killed_one_are_not_blamed():
    found = diagnose([Failure(0, 75, 1.0), Failure(1, -9, 2.0), Failure(2, 75, 0.5)])
    assert (found.rank, found.code, found.cause) == (1, 75, names.CAUSE_INFRASTRUCTURE)
    assert "SIGKILL" in found.message


def test_earliest_of_several_real_failures_is_the_root():
    assert diagnose([Failure(0, 70, 5.0), Failure(1, -11, 4.0)]).rank == 1


def test_permanent_code_wins_over_an_earlier_crash():
    found = diagnose([Failure(0, -6, 1.0), Failure(1, 66, 9.0)])
    assert (found.code, found.rank, found.permanent) == (66, 1, True)


def test_only_lost_peers_means_try_again():
    found = diagnose(failed(75, 75))
    assert (found.code, found.cause, found.permanent) == (75, names.CAUSE_INFRASTRUCTURE, False)


def test_kill_with_a_raised_counter_is_out_of_memory():
    found = diagnose(failed(-9), killed_for_memory=True)
    assert (found.code, found.cause) == (KILLED_FOR_MEMORY, names.CAUSE_OUT_OF_MEMORY)


@pytest.mark.parametrize("status", [-11, 70, 75])
def test_raised_counter_does_not_explain_other_ends(status):
    assert diagnose(failed(status), killed_for_memory=True).cause == names.CAUSE_INFRASTRUCTURE


@pytest.mark.parametrize(("status", "code"), [(1, 70), (2, 70), (255, 70), (73, 73), (-15, 75), (-64, 75)])
def test_statuses_that_are_not_ours_become_ours(status, code):
    assert diagnose(failed(status)).code == code


def test_unknown_signal_is_named_by_its_number():
    assert "signal 200" in diagnose(failed(-200)).message


@given(st.lists(statuses, min_size=1, max_size=8), st.booleans())
def test_code_is_always_one_of_ours_and_never_success(found, oom):
    diagnosis = diagnose(failed(*found), killed_for_memory=oom)
    assert diagnosis.code in {*map(int, ExitCode), KILLED_FOR_MEMORY} - {0}
    assert diagnosis.cause in names.CAUSES
    assert diagnosis.permanent == any(status in PERMANENT_CODES for status in found)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        *((code, "user_error") for code in (64, 66, 76, 77, 78)),
        *((code, "infrastructure") for code in (69, 70, 73, 75)),
        (65, "data"),
        (79, "hang"),
        (137, "out_of_memory"),
    ],
)
def test_cause_of_every_code(code, cause):
    assert cause_of(code) == cause


CRASH = Diagnosis(75, names.CAUSE_INFRASTRUCTURE, 0, "")
OOM = Diagnosis(KILLED_FOR_MEMORY, names.CAUSE_OUT_OF_MEMORY, 0, "")


def test_budget_is_spent_and_then_gone():
    budget = RestartBudget(2)
    assert [budget.spend(CRASH) for _ in range(4)] == [True, True, False, False]


def test_progress_refills_the_budget_and_standstill_does_not():
    budget = RestartBudget(1)
    budget.note_progress(10)
    assert budget.spend(CRASH)
    budget.note_progress(10)
    assert not budget.spend(CRASH)
    budget.note_progress(11)
    assert budget.spend(CRASH)


def test_older_checkpoint_is_no_progress():
    budget = RestartBudget(1)
    budget.note_progress(10)
    budget.spend(CRASH)
    budget.note_progress(5)  # resumed from an earlier one because the newest was damaged
    assert not budget.spend(CRASH)


def test_permanent_failure_gets_no_restart():
    assert not RestartBudget(9).spend(Diagnosis(64, names.CAUSE_USER_ERROR, 0, ""))


def test_running_out_of_memory_gets_one_restart():
    budget = RestartBudget(9)
    assert [budget.spend(OOM), budget.spend(OOM)] == [True, False]


def test_budget_tells_its_limit():
    budget = RestartBudget(3)
    budget.spend(CRASH)
    assert (budget.used, budget.limit) == (1, 3)


def test_no_restart_at_all_if_none_is_allowed():
    assert not RestartBudget(0).spend(OOM)
    assert not RestartBudget(0).spend(CRASH)


def test_backoff_starts_at_none_and_is_bounded():
    budget = RestartBudget(20)
    waits = []
    for _ in range(10):
        budget.spend(CRASH)
        waits.append(budget.backoff)
    assert waits[:6] == [0, 1, 2, 4, 8, 16]
    assert set(waits[6:]) == {LONGEST_BACKOFF}


def test_every_permanent_code_has_a_cause_without_budget():
    assert {cause_of(code) for code in PERMANENT_CODES} == {names.CAUSE_USER_ERROR, names.CAUSE_DATA}
    assert signal.SIGKILL == 9

"""The account of memory: full means wait, except for the batch that is wanted next."""

import threading

import pytest

from clip_trainer.data.loading.budget import MemoryBudget


def asking(budget, turn, size):
    """Ask in a thread; the list gets the answer."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(budget.admit(turn, size)), daemon=True)
    thread.start()
    return thread, answers


def answered(thread, answers):
    thread.join(60)
    return answers


def test_charges_add_up_and_the_peak_stays():
    budget = MemoryBudget(100)
    assert budget.admit(5, 60)
    budget.charge(30)
    budget.charge(-80)
    assert (budget.held, budget.peak) == (10, 90)


def test_what_is_there_already_is_charged_however_much_it_is():
    budget = MemoryBudget(100)
    budget.charge(500)
    assert budget.held == 500


def test_a_full_account_makes_later_batches_wait_until_something_is_released():
    budget = MemoryBudget(100)
    budget.charge(80)
    thread, answers = asking(budget, 1, 40)
    thread.join(0.05)
    assert not answers
    budget.charge(-30)
    assert answered(thread, answers) == [True]
    assert budget.held == 90


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_the_batch_that_is_wanted_next_never_waits(turn):
    budget = MemoryBudget(100)
    budget.charge(1000)
    budget.want(2)
    assert answered(*asking(budget, turn, 40)) == [True]


def test_who_waits_goes_on_when_its_batch_is_wanted():
    budget = MemoryBudget(0)
    thread, answers = asking(budget, 3, 1)
    thread.join(0.05)
    assert not answers
    budget.want(3)
    assert answered(thread, answers) == [True]


def test_closing_sends_home_who_waits_and_who_comes_later():
    budget = MemoryBudget(0)
    thread, answers = asking(budget, 3, 1)
    budget.close()
    assert answered(thread, answers) == [False]
    assert not budget.admit(0, 1)
    assert budget.held == 0

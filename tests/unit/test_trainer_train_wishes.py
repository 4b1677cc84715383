"""Wishes travel as whole numbers that are summed."""

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.train.wishes import NOTHING, Wishes

numbers = st.lists(st.integers(0, 2**40), min_size=len(fields(Wishes)), max_size=len(fields(Wishes)))


@given(numbers, numbers)
def test_sums_of_numbers_are_sums_of_wishes(ours, theirs):
    summed = Wishes.of(a + b for a, b in zip(Wishes.of(ours).numbers(), Wishes.of(theirs).numbers(), strict=True))
    for field in fields(Wishes):
        expected = getattr(Wishes.of(ours), field.name) + getattr(Wishes.of(theirs), field.name)
        assert getattr(summed, field.name) == expected


def test_no_wish_is_no_number():
    assert set(NOTHING.numbers()) == {0}
    assert Wishes(saved=9).numbers() != NOTHING.numbers()

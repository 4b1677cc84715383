import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.check.verdict import interval, judge, percent


def verdict(**given):
    return judge(**{"read": 1000, "unusable": 0, "damaged": 0, "samples": 1000, "max_bad": 0.01, **given})


def test_all_is_well():
    assert verdict() == (True, "OK: all 1000 samples that were read can be used")


def test_a_few_bad_samples_are_tolerated():
    found = verdict(unusable=10)
    assert found.ok
    assert found.text == "OK: 10 of 1000 samples cannot be used (1.0 %), training replaces them"


def test_one_more_than_tolerated_is_too_many():
    found = verdict(unusable=11)
    assert not found.ok
    assert found.text == "BAD: 11 of 1000 samples cannot be used (1.1 %), more than the tolerated 1.0 %"


def test_damage_is_never_tolerated():
    found = verdict(unusable=1, damaged=1, max_bad=1.0)
    assert not found.ok
    assert found.text.startswith("DAMAGED: 1 of 1000 samples differ from the index")


def test_no_tolerance():
    assert verdict(max_bad=0).ok
    assert not verdict(max_bad=0, unusable=1).ok


def test_a_draw_speaks_about_the_whole_set():
    assert "1.3 % to 3.1 % of the whole set" in verdict(unusable=20, samples=10**9).text
    assert verdict(samples=10**9).text.endswith("; at most 0.38 % of the whole set cannot")


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_interval_holds_the_share_that_was_drawn(hits, drawn):
    hits = min(hits, drawn)
    low, high = interval(hits, drawn)
    assert 0 <= low <= high <= 1
    assert low <= hits / drawn + 1e-12
    assert high >= hits / drawn - 1e-12


def test_the_interval_is_wilsons():
    """Values of R's `prop.test(10, 100, correct = FALSE)` and `prop.test(0, 50, correct = FALSE)`."""
    assert interval(10, 100) == pytest.approx((0.05522854, 0.17436566), abs=1e-5)
    assert interval(0, 50) == pytest.approx((0.0, 0.07134759), abs=1e-5)


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.0003, "0.03 %"), (0.012, "1.2 %"), (0.34, "34 %"), (1, "100 %")]
)
def test_shares_for_people(share, text):
    assert percent(share) == text

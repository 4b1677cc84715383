import random

import pytest
import xxhash

from clip_trainer.data.check.duplicates import DuplicateFinder


def digest(value):
    return xxhash.xxh3_64_intdigest(str(value).encode())


def test_values_that_occur_again_are_counted_and_the_first_few_named():
    finder = DuplicateFinder()
    for number, value in enumerate("abacabad"):
        finder.add(digest(value), f"sample {number}")
    assert finder.repeats == 4
    assert finder.examples == ["sample 2", "sample 4", "sample 5", "sample 6"]
    assert finder.share == 1.0


def test_only_five_examples_are_kept():
    finder = DuplicateFinder()
    for number in range(20):
        finder.add(digest("same"), str(number))
    assert finder.repeats == 19
    assert finder.examples == ["1", "2", "3", "4", "5"]


def test_without_repeats_there_are_none():
    finder = DuplicateFinder()
    for number in range(1000):
        finder.add(digest(number), str(number))
    assert (finder.repeats, finder.examples) == (0, [])


def test_memory_is_bounded_and_the_count_becomes_an_estimate():
    finder = DuplicateFinder(limit=1000)
    values = [value for value in range(20_000) for _ in range(2)]
    random.Random(0).shuffle(values)
    for value in values:
        finder.add(digest(value), str(value))
    assert finder.share == 1 / 32
    assert len(finder._seen) <= 1000
    assert finder.repeats == pytest.approx(20_000, rel=0.15)


def test_equal_values_stay_or_go_together():
    """Repeats that are far apart are found although most values have been given up in between."""
    finder = DuplicateFinder(limit=100)
    for _ in range(2):
        for value in range(5000):
            finder.add(digest(value), str(value))
    watched = [value for value in range(5000) if not digest(value) & finder._mask]
    assert len(watched) == pytest.approx(5000 * finder.share, rel=0.5)
    assert finder._again.keys() == {digest(value) for value in watched}

import io
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from clip_trainer.data.check.histogram import histogram
from clipctl.bars import bar, bins, can_draw, chart, counted, terminal_width


class TestBar:
    def test_lengths_are_in_eighths(self):
        assert [bar(eighths / 16, 2) for eighths in (0, 1, 4, 8, 9, 16)] == ["", "▏", "▌", "█", "█▏", "██"]

    def test_anything_can_be_seen(self):
        assert bar(1e-9, 50) == "▏"
        assert bar(1e-9, 50, blocks=False) == "#"
        assert bar(0, 50) == bar(0, 50, blocks=False) == ""

    def test_without_block_characters(self):
        assert bar(0.5, 10, blocks=False) == "#####"

    @given(st.floats(0, 1), st.integers(1, 80), st.booleans())
    def test_it_never_is_longer_than_its_width(self, share, width, blocks):
        assert len(bar(share, width, blocks=blocks)) <= width


class TestChart:
    def test_aligned_columns(self):
        lines = chart([("a", 1000), ("long", 1)], 80)
        assert lines == [
            f"     a  {'█' * 50} 1,000  99.9 %",
            f"  long  {'▏':<50}     1   0.1 %",
        ]

    def test_the_whole_may_be_more_than_the_rows(self):
        assert chart([("a", 5)], 80, total=20)[0].endswith("5  25.0 %")

    @pytest.mark.parametrize("width", [10, 40, 60, 200])
    def test_it_fits_the_terminal_as_far_as_possible(self, width):
        lines = chart([("label", 7), ("x", 3)], width)
        assert max(map(len, lines)) <= max(width, 26)
        assert len({len(line) for line in lines}) == 1

    def test_wide_characters_take_two_columns(self):
        lines = chart([("日本", 1), ("abcd", 1)], 80)
        assert len({cell_len(line) for line in lines}) == 1

    def test_long_labels_are_cut(self):
        (line,) = chart([("x" * 500, 1)], 100)
        assert cell_len(line) <= 100
        assert "x…" in line

    def test_nothing_and_zeros(self):
        assert chart([], 80) == []
        assert chart([("a", 0)], 80)[0].split() == ["a", "0", "0.0", "%"]


def test_bins_are_named_by_their_edges_and_the_last_by_the_largest_number():
    found = asdict(histogram({1: 3, 12: 2, 37: 1}, (0, 10, 20, 30)))
    assert bins(found) == [("0 - 10", 3), ("10 - 20", 2), ("20 - 30", 0), ("30 - 37", 1)]
    assert bins(found, lambda edge: f"{edge:.0f} B")[0] == ("0 B - 10 B", 3)
    assert bins(asdict(histogram({30: 1}, (0, 10, 30)))) == [("30", 1)]
    assert bins(asdict(histogram({}, (0, 1)))) == []


def test_counts_by_name_are_ranked_and_the_rest_is_one_row():
    counts = {"a": 1, "b": 5, "c": 2, "d": 1}
    assert counted(counts) == [("b", 5), ("c", 2), ("a", 1), ("d", 1)]
    assert counted(counts, most=3) == [("b", 5), ("c", 2), ("2 others", 2)]


def test_the_width_of_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "73")
    assert terminal_width() == 73


@pytest.mark.parametrize(
    ("encoding", "drawn"), [("utf-8", True), ("ascii", False), ("latin-1", False), ("no such", False)]
)
def test_block_characters_need_an_encoding(encoding, drawn, monkeypatch):
    class Output(io.StringIO):
        pass

    Output.encoding = encoding
    monkeypatch.setattr("sys.stdout", Output())
    assert can_draw() is drawn

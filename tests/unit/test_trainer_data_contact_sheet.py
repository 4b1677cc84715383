import numpy as np
import pytest
from PIL import Image

from clip_trainer.data.check import contact_sheet as module
from clip_trainer.data.check.contact_sheet import CAPTION_LINES, THUMBNAIL, Cell, contact_sheet, font_for, wrap

RED, GREEN = (200, 30, 40), (20, 180, 60)
FONT = font_for("Latin")
TEXTS = [
    "赤い電車が駅に止まっている" * 9,
    "שני חתולים",
    "قطتان على أريكة",
    "😀👩‍👩‍👧‍👦",
    "\ud800 half",
    "\x00\x1b[31m",
    "é" * 300,
    "\u200d" * 400,
]


def cell(colour=RED, *, height=60, width=60, caption="a caption", note="note"):
    return Cell(np.full((height, width, 3), colour, np.uint8), caption, note)


def boxes(sheet, colour, tolerance=3):
    """Bounding box (left, top, right, bottom) of the pixels of a colour."""
    hits = (np.abs(np.asarray(sheet, int) - colour) <= tolerance).all(axis=2)
    rows, columns = np.flatnonzero(hits.any(axis=1)), np.flatnonzero(hits.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def dark_below(sheet, top):
    return int((np.asarray(sheet.convert("L"))[top:] < 100).sum())


class TestSheet:
    def test_pictures_fill_their_squares_in_their_proportions(self):
        for height, width in ((60, 60), (30, 60), (600, 200)):
            left, top, right, bottom = boxes(contact_sheet([cell(height=height, width=width)]), RED)
            assert max(right - left, bottom - top) == THUMBNAIL
            assert (right - left) / (bottom - top) == pytest.approx(width / height, rel=0.02)

    def test_rows_are_filled_from_the_left(self):
        cells = [cell(), cell(), cell(), cell(GREEN)]
        sheet = contact_sheet(cells, columns=3)
        left, top, _, _ = boxes(sheet, GREEN)
        assert left == boxes(sheet, RED)[0]
        assert top > THUMBNAIL
        assert sheet.width < contact_sheet(cells, columns=4).width

    def test_the_caption_is_below_the_picture_and_longer_ones_take_more_ink(self):
        sheets = [contact_sheet([cell(caption=text)]) for text in ("", "a cat", "a cat on a sofa " * 5)]
        bottom = boxes(sheets[0], RED)[3]
        ink = [dark_below(sheet, bottom) for sheet in sheets]
        assert ink[0] < ink[1] < ink[2]
        assert len({sheet.size for sheet in sheets}) == 1

    def test_captions_of_neighbours_do_not_overlap(self):
        alone = np.asarray(contact_sheet([cell(caption="W" * 500), cell(caption="")]), int)
        assert alone[:, -THUMBNAIL - 10 :][THUMBNAIL + 20 : -40].min() > 90  # no ink of the left one, the note is pale

    @pytest.mark.parametrize("text", TEXTS)
    def test_any_text_can_be_drawn(self, text):
        assert contact_sheet([cell(caption=text, note=text)]).size

    @pytest.mark.parametrize(("height", "width"), [(1, 1000), (1000, 1), (1, 1)])
    def test_thin_pictures_do_not_vanish(self, height, width):
        assert boxes(contact_sheet([cell(height=height, width=width)]), RED)

    def test_it_is_an_rgb_image(self):
        assert contact_sheet([cell()]).mode == "RGB"
        assert isinstance(contact_sheet([cell()]), Image.Image)


class TestWrap:
    def lines(self, text, width=200, count=CAPTION_LINES):
        return wrap(text, FONT, width, count)

    def test_short_text_is_one_line(self):
        assert self.lines("a cat") == ["a cat"]
        assert self.lines("  a \n cat ") == ["a cat"]
        assert self.lines("") == []

    def test_lines_break_between_words_and_fit(self):
        text = "the quick brown fox jumps over the lazy dog and runs away"
        lines = self.lines(text)
        assert " ".join(lines) == text
        assert len(lines) > 1
        assert all(FONT.getlength(line) <= 200 for line in lines)

    def test_lines_are_as_full_as_they_can_be(self):
        first, second, *_ = self.lines("the quick brown fox jumps over the lazy dog and runs away")
        assert FONT.getlength(f"{first} {second.split()[0]}") > 200

    def test_a_word_that_is_too_wide_is_broken(self):
        lines = self.lines("x" * 60)
        assert "".join(lines) == "x" * 60
        assert all(FONT.getlength(line) <= 200 for line in lines)

    def test_what_does_not_fit_is_marked(self):
        lines = self.lines("word " * 200)
        assert len(lines) == CAPTION_LINES
        assert lines[-1].endswith("…")
        assert all(FONT.getlength(line) <= 200 for line in lines)

    def test_a_column_narrower_than_a_letter_still_ends(self):
        assert self.lines("WWW", width=1, count=2) == ["W", "…"]


class TestFonts:
    @pytest.fixture(autouse=True)
    def _forget(self):
        font_for.cache_clear()
        yield
        font_for.cache_clear()

    def test_every_machine_has_one_for_most_scripts(self, monkeypatch):
        monkeypatch.setattr(module, "EAST_ASIAN_FONTS", ())
        assert {font_for(script).getname()[0] for script in ("Latin", "Greek", "Han")} == {"DejaVu Sans"}

    def test_a_font_of_the_system_for_east_asian_scripts(self, monkeypatch):
        """Another font of matplotlib stands for one of the system."""
        other = font_for("Latin").path.replace("DejaVuSans.ttf", "DejaVuSerif.ttf")
        monkeypatch.setattr(module, "EAST_ASIAN_FONTS", ("no-such-font.ttc", other))
        assert font_for("Japanese").getname()[0] == "DejaVu Serif"
        assert font_for("Cyrillic").getname()[0] == "DejaVu Sans"

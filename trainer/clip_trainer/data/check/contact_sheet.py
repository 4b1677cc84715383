"""A page of pictures with their captions below, to see at a glance what is in a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clip_trainer.data.check.script import script_of
from clip_trainer.vision.decode import Pixels

THUMBNAIL = 208  # side of the square a picture is fitted into, pixels
COLUMNS = 6
CAPTION_LINES = 4
EAST_ASIAN_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "DroidSansFallbackFull.ttf",
    "wqy-zenhei.ttc",
    "PingFang.ttc",
    "msyh.ttc",
)
"""Files that Linux distributions, macOS and Windows have in their font folders."""

_GAP = 14
_TEXT_SIZE = 13
_LINE = 17
_PAPER, _FRAME, _INK, _PALE = (255, 255, 255), (236, 236, 236), (32, 32, 32), (130, 130, 130)
_ELLIPSIS = "…"


class Cell(NamedTuple):
    """One picture of the sheet."""

    pixels: Pixels  # uint8 [h, w, 3]
    caption: str
    note: str  # a pale line below the caption: key, size


def contact_sheet(cells: Sequence[Cell], columns: int = COLUMNS) -> Image.Image:
    """Draw the sheet: rows of pictures, each with up to `CAPTION_LINES` lines of its caption and a note.

    Args:
        cells: what to show, in rows from the top left; at least one.
        columns: pictures in a row, at most.
    """
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    height = THUMBNAIL + (CAPTION_LINES + 1) * _LINE + _GAP
    size = (columns * (THUMBNAIL + _GAP) + _GAP, rows * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        corner = (_GAP + column * (THUMBNAIL + _GAP), _GAP + row * (height + _GAP))
        _draw_cell(sheet, corner, cell)
    return sheet


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """Break text into lines no wider than `width` pixels; what is left out is marked by an ellipsis.

    Words that are wider than a line, and scripts without blanks, are broken anywhere.
    """
    wrapped: list[str] = []
    left = " ".join(text.split())
    while left and len(wrapped) < lines:
        fits = _fitting(left, font, width)
        if fits < len(left):
            blank = left.rfind(" ", 0, fits + 1)
            fits = blank if blank > 0 else fits
        wrapped.append(left[:fits].rstrip())
        left = left[fits:].lstrip()
    if left:
        last = wrapped[-1]
        while last and font.getlength(last + _ELLIPSIS) > width:
            last = last[:-1]
        wrapped[-1] = last.rstrip() + _ELLIPSIS
    return wrapped


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many leading characters fit, at least one."""
    low, high = 1, min(len(text), width)  # no character that matters is narrower than a pixel
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _draw_cell(sheet: Image.Image, corner: tuple[int, int], cell: Cell) -> None:
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + THUMBNAIL - 1, top + THUMBNAIL - 1), fill=_FRAME)
    picture = Image.fromarray(np.ascontiguousarray(cell.pixels))
    scale = THUMBNAIL / max(picture.size)
    # A strip of one pixel by a thousand is still a picture: no side may vanish.
    side = [max(1, round(length * scale)) for length in picture.size]
    picture = picture.resize((side[0], side[1]), Image.Resampling.BICUBIC)
    sheet.paste(picture, (left + (THUMBNAIL - side[0]) // 2, top + (THUMBNAIL - side[1]) // 2))
    line = top + THUMBNAIL + 3
    font = font_for(script_of(cell.caption))
    for text in wrap(cell.caption, font, THUMBNAIL, CAPTION_LINES):
        draw.text((left, line), text, fill=_INK, font=font)
        line += _LINE
    font = font_for("Latin")
    for text in wrap(cell.note, font, THUMBNAIL, 1):
        draw.text((left, line), text, fill=_PALE, font=font)


@lru_cache(maxsize=8)
def font_for(script: str) -> ImageFont.FreeTypeFont:
    """A font that can write a script, if this machine has one.

    DejaVu Sans comes with matplotlib and so is on every machine that has the trainer. It lacks the East Asian scripts:
    for those a font of the system is taken, and boxes are drawn where there is none.

    Args:
        script: as `clip_trainer.data.check.script.script_of` names it.
    """
    import matplotlib  # takes a second, and most checks draw no sheet

    for name in EAST_ASIAN_FONTS if script in ("Han", "Japanese", "Hangul") else ():
        try:
            return ImageFont.truetype(name, _TEXT_SIZE)
        except OSError:
            continue
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), _TEXT_SIZE)

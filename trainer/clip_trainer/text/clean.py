"""Caption cleaning, as CLIP's tokenizer does it: repair, unescape, collapse white space, lower case."""

from __future__ import annotations

import html

import ftfy


def is_plain(text: str) -> bool:
    """Whether `clean` could only lower-case `text` and collapse its blanks (no need for ftfy, which is slow)."""
    return text.isascii() and text.isprintable() and "&" not in text


def clean(text: str) -> str:
    """Repair broken encodings, resolve HTML entities (twice: many captions are escaped twice), lower-case."""
    repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(repaired.split()).lower()

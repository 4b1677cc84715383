"""Caption cleaning, as CLIP's tokenizers do it: repair, unescape, then one of three modes."""

from __future__ import annotations

import html
import string
from collections.abc import Callable

import ftfy

CLEAN_MODES = ("lower", "whitespace", "canonicalize")
"""What `clean_function` knows. `lower` is CLIP's; `whitespace` keeps the case; `canonicalize` is SigLIP's."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def is_plain(text: str) -> bool:
    """Whether repairing and unescaping `text` would change nothing (no need for ftfy, which is slow)."""
    return text.isascii() and text.isprintable() and "&" not in text


def clean_function(mode: str) -> Callable[[str], str]:
    """The cleaning of a mode.

    Raises:
        ValueError: no such mode.
    """
    functions = dict(zip(CLEAN_MODES, (clean_lower, clean_whitespace, clean_canonicalize), strict=True))
    if mode not in functions:
        raise ValueError(f"there is no cleaning mode {mode!r}; the modes are {', '.join(CLEAN_MODES)}")
    return functions[mode]


def clean_lower(text: str) -> str:
    """Repair, unescape, collapse white space, lower-case."""
    return clean_whitespace(text).lower()


def clean_whitespace(text: str) -> str:
    """Repair, unescape, collapse white space; the case stays."""
    return " ".join(_repair(text).split())


def clean_canonicalize(text: str) -> str:
    """Repair, unescape, then `canonicalize_text`."""
    return canonicalize_text(_repair(text))


def canonicalize_text(text: str, *, keep_punctuation_exact_string: str | None = None) -> str:
    """Lower-case without ASCII punctuation (an underscore becomes a space), as SigLIP's training did.

    Args:
        text: what to change.
        keep_punctuation_exact_string: occurrences of exactly this string keep their punctuation, for example `{}`.
    """
    text = text.replace("_", " ")
    kept = keep_punctuation_exact_string
    parts = text.split(kept) if kept else [text]
    text = (kept or "").join(part.translate(_NO_PUNCTUATION) for part in parts)
    return " ".join(text.lower().split())


def _repair(text: str) -> str:
    """Repair broken encodings and resolve HTML entities (twice: many captions are escaped twice)."""
    if is_plain(text):
        return text
    return html.unescape(html.unescape(ftfy.fix_text(text)))

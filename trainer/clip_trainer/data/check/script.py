"""In which script a text is written: a hint at its language that needs no model."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

_LETTERS_LOOKED_AT = 200
_JAPANESE = {"HIRAGANA", "KATAKANA"}


def script_of(text: str) -> str:
    """Name of the script of most letters: `Latin`, `Cyrillic`, `Han`, `Japanese`, ...; `none` without letters.

    >>> script_of("два кота, cat")
    'Cyrillic'
    """
    letters = [char for char in text[: 4 * _LETTERS_LOOKED_AT] if char.isalpha()][:_LETTERS_LOOKED_AT]
    found = Counter(map(_script, letters))
    if not found:
        return "none"
    if "Japanese" in found:  # Japanese text is mostly Han, Chinese text has no kana at all
        return "Japanese"
    return found.most_common(1)[0][0]


@lru_cache(maxsize=1 << 14)
def _script(char: str) -> str:
    """Script of a letter, from the first word of its Unicode name."""
    word = unicodedata.name(char, "UNNAMED").split()[0].split("-")[0]
    if word in _JAPANESE:
        return "Japanese"
    return "Han" if word == "CJK" else word.capitalize()

"""Captions that make tokenizers disagree: generated, the same ones for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator


def _pieces(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORDS = _pieces("a photo of the cat dog THE Cat's don't I'LL we've she'd it's O'Neil running 42 3.14 1st x2 USA iPhone")
NUMBERS = _pieces("№5 ½ Ⅷ ١٢ २ ² ①")
ENTITIES = _pieces(
    "&amp; &lt;b&gt; &amp;amp; &#39; &#x1F600; &eacute; &nbsp; & &unknown; &#0; &#128; &#xD800; &lt;end_of_text&gt; "
    "&amp;lt; &quot;q&quot; &notit; &copy &#65;"
)
SPECIALS = (
    "<start_of_text>",
    "<END_of_text>",
    "<end_of_text>",
    "<end_of_text",
    "</w>",
    "<|endoftext|>",
    "<Start_Of_Text>",
)
MARKS = _pieces("_ - ... !? ( ) #tag @me \\ \" ' `` '' // :-) ~ $5 50% {} [x] ^")
LETTERS = _pieces(
    "é e\u0301 ß İ ı ſ 'ſ K Å ﬁ ά ς Ǆ ŉ ẞ 日本語 한국어 ไทย עברית हिन्दी العربية Привет ქართული Ꭰ ꭰ 𝒜 𝔘𝔫𝔦 ｆｕｌｌ"
)
BROKEN = (*_pieces("â€™ Ã© Â£ “ ” ’ — … â€œhiâ€\u009d ÐŸÑ€Ð¸ ðŸ˜€ Ã"), "Ã\u00a0", "\ud800", "\udfff\ud800", "\ufffd")
EMOJI = _pieces("😀 ❤️ ❤ 👍🏽 🇩🇪🇫🇷 👩‍👩‍👧‍👦 🏳️‍🌈 👨🏿‍🚀 1️⃣ 🏴\U000e0067\U000e0062\U000e007f \u200d \ufe0f")
CONTROLS = (
    *("\t", "\n", "\r\n", "\x0b", "\x1c", "\x1f", "\x00", "\x07", "\x7f", "\x85", "\x9b"),
    *("\u3000", "\u2028", "\u00a0", "\u200b", "\u00ad", "\ufeff", "\u202e", "\x1b[31m"),
)
_GROUPS = (WORDS, WORDS, WORDS, NUMBERS, ENTITIES, SPECIALS, MARKS, LETTERS, BROKEN, EMOJI, CONTROLS)
_PLANES = (
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x370, 0x1FFF),
    (0x2000, 0x2BFF),
    (0x2E80, 0xFFFF),
    (0x10000, 0x1FFFF),
    (0x20000, 0x10FFFF),
)

_Make = Callable[[random.Random], str]


def fuzzed_captions(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Pairs of kind and caption.

    Kinds: `mixed` (tricky pieces, with and without blanks), `plain` (ordinary words), `unicode` (characters of all
    planes), `long` (more tokens than any context), `word` (one long word), `empty`.

    Args:
        count: number of captions.
        seed: of the generator.
    """
    source = random.Random(seed)
    kinds, weights = zip(*((kind, weight) for kind, (weight, _) in _KINDS.items()), strict=True)
    for kind in source.choices(kinds, weights, k=count):
        yield kind, _KINDS[kind][1](source)


def _mixed(source: random.Random) -> str:
    pieces = (
        source.choice(source.choice(_GROUPS)) + source.choice(("", " ", " ", "  ")) for _ in range(source.randrange(12))
    )
    return "".join(pieces)


def _plain(source: random.Random) -> str:
    return " ".join(source.choice(WORDS) for _ in range(source.randrange(1, 14)))


def _unicode(source: random.Random) -> str:
    return "".join(chr(source.randint(*source.choice(_PLANES))) for _ in range(source.randrange(1, 16)))


def _long(source: random.Random) -> str:
    return " ".join(source.choice(source.choice((WORDS, MARKS, LETTERS))) for _ in range(source.randrange(60, 140)))


def _word(source: random.Random) -> str:
    letters = source.choice(("abcdefghij", "aA1", "äöü日", "!?.-", "'st"))
    return "".join(source.choice(letters) for _ in range(source.randrange(10, 120)))


def _empty(source: random.Random) -> str:
    return source.choice(("", " ", "\n\t ", "\u3000", "&nbsp;", "\x00"))


_KINDS: dict[str, tuple[float, _Make]] = {
    "mixed": (0.5, _mixed),
    "plain": (0.2, _plain),
    "unicode": (0.22, _unicode),
    "long": (0.03, _long),
    "word": (0.04, _word),
    "empty": (0.01, _empty),
}

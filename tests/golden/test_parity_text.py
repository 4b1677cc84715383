"""Token ids equal OpenCLIP's SimpleTokenizer on thousands of generated captions."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_trainer.text import BpeTokenizer

pytestmark = pytest.mark.parity
OURS = BpeTokenizer()

# Pieces that make tokenizers disagree: entities, broken encodings, case folding, joiners, marks, digits of other
# scripts, control characters, white space of all kinds, special tokens, contractions.
PIECES = [
    *("a", "photo", "of", "THE", "Cat's", "don't", "I'LL", "x" * 30, "42", "3.14", "№5", "½", "Ⅷ", "١٢", "२"),
    *("&amp;", "&lt;b&gt;", "&amp;amp;", "&#39;", "&#x1F600;", "&eacute;", "&nbsp;", "&", "&unknown;", "&#0;"),
    *("<start_of_text>", "<END_of_text>", "<end_of_text", "_", "-", "...", "!?", "(", "#tag", "@me", "\\", '"'),
    *("é", "e\u0301", "ß", "İ", "ı", "ſ", "'ſ", "K", "ﬁ", "ά", "ς", "日本語", "한국어", "ไทย", "עברית", "हिन्दी"),
    *("â€™", "Ã©", "“", "’", "—", "…", "\u200d", "\u200b", "\u00ad", "\ufeff", "\ufe0f", "👩‍👩‍👧", "🇩🇪", "😀", "❤️"),
    *("\t", "\n", "\r\n", "\x0b", "\x1c", "\x1f", "\x00", "\x7f", "\x85", "\u3000", "\u2028", "\x1b[31m"),
]


@pytest.fixture(scope="module")
def theirs(open_clip):
    return open_clip.SimpleTokenizer()


def test_generated_captions(theirs):
    source = random.Random(0)
    captions = [
        "".join(source.choice(PIECES) + source.choice(["", " ", "  "]) for _ in range(source.randrange(30)))
        for _ in range(4000)
    ]
    np.testing.assert_array_equal(OURS(captions), theirs(captions).numpy())
    assert [OURS.encode(caption) for caption in captions[:500]] == [theirs.encode(c) for c in captions[:500]]


@settings(max_examples=500, deadline=None)
@given(text=st.text(max_size=80))
def test_any_unicode_text(theirs, text):
    assert OURS.encode(text) == theirs.encode(text)


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=80))
def test_any_latin_text(theirs, text):
    assert OURS.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("context", [16, 32, 77])
def test_truncation(theirs, context):
    captions = ["word " * count for count in range(80)]
    expected = theirs(captions, context_length=context).numpy()
    np.testing.assert_array_equal(BpeTokenizer(context)(captions), expected)


def test_every_token_of_the_vocabulary(theirs):
    assert {index: OURS._symbols[index] for index in range(49_408)} == theirs.decoder


def test_decoding(theirs):
    for text in ("a diagram", "it's naïve 42nd", "日本語 😀"):
        assert OURS.decode(OURS.encode(text)) == theirs.decode(theirs.encode(text))

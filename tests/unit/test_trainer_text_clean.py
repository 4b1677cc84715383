"""Cleaning of captions: what each mode does."""

import html

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.text import canonicalize_text, clean_function
from clip_trainer.text.clean import CLEAN_MODES, is_plain


@pytest.mark.parametrize(
    ("text", "lower", "whitespace", "canonicalize"),
    [
        ("A  B\tC\n", "a b c", "A B C", "a b c"),
        ("&lt;b&gt;", "<b>", "<b>", "b"),
        ("&amp;lt;", "<", "<", ""),
        ("“quoted” It’s", '"quoted" it\'s', '"quoted" It\'s', "quoted its"),
        ("cafÃ©", "café", "café", "café"),
        ("\u3000wide\u3000space", "wide space", "wide space", "wide space"),
        ("snake_case, NO!", "snake_case, no!", "snake_case, NO!", "snake case no"),
        ("", "", "", ""),
    ],
)
def test_modes(text, lower, whitespace, canonicalize):
    assert [clean_function(mode)(text) for mode in CLEAN_MODES] == [lower, whitespace, canonicalize]


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match=r"'upper'.*lower, whitespace, canonicalize"):
        clean_function("upper")


@pytest.mark.parametrize("mode", CLEAN_MODES)
@given(text=st.text(max_size=30))
def test_cleaning_twice_changes_nothing_but_entities(mode, text):
    once = clean_function(mode)(text)
    assert once == " ".join(once.split())
    if "&" not in once and ftfy.fix_text(once) == once:
        assert clean_function(mode)(once) == once


@given(st.text(alphabet=st.characters(max_codepoint=0x7F), max_size=30))
def test_plain_text_needs_no_repair(text):
    if is_plain(text):
        assert html.unescape(html.unescape(ftfy.fix_text(text))) == text


def test_canonical_text_may_keep_a_placeholder():
    text = "A photo of {}, or { or }_x."
    assert canonicalize_text(text) == "a photo of or or x"
    assert canonicalize_text(text, keep_punctuation_exact_string="{}") == "a photo of {} or or x"

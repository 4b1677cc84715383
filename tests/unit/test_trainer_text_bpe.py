"""Captions to ids. The golden ids were made by OpenCLIP 3.3.0's SimpleTokenizer."""

import html
import subprocess
import sys
import threading

import ftfy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_trainer.text import BpeTokenizer, padded_length, token_lengths
from clip_trainer.text import bpe as bpe_module

TOKENIZER = BpeTokenizer()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a diagram", [320, 22697]),
        ("A photo of a CAT!", [320, 1125, 539, 320, 2368, 256]),
        ("it's  &amp;amp; it’s", [585, 568, 261, 585, 568]),
        ("naïve café 42nd", [1097, 35689, 563, 15304, 275, 273, 1764]),
        ("日本語", [39121, 44353, 34002, 508]),
        ("emoji 😀", [16327, 7334]),
        ("", []),
        ("  \t\n ", []),
        ("word", [2653]),
        ("<start_of_text>a<end_of_text>", [49406, 320, 49407]),
    ],
)
def test_golden(text, ids):
    assert TOKENIZER.encode(text) == ids
    row = TOKENIZER([text])[0]
    assert row[: len(ids) + 2].tolist() == [49406, *ids, 49407]
    assert not row[len(ids) + 2 :].any()


def test_the_numbers_of_the_vocabulary():
    assert (TOKENIZER.vocab_size, TOKENIZER.sot_id, TOKENIZER.eot_id) == (49408, 49406, 49407)
    assert TOKENIZER.context_length == 77


def test_a_long_caption_is_cut_and_still_ends():
    row = TOKENIZER(["word " * 100])[0]
    assert row.tolist() == [49406, *[2653] * 75, 49407]
    assert len(TOKENIZER.encode("word " * 100)) == 100


@pytest.mark.parametrize("context", [2, 3, 16, 32])
def test_other_context_lengths(context):
    ids = BpeTokenizer(context)(["one two three four five six seven " * 5, "a"])
    assert ids.shape == (2, context)
    assert ids.dtype == np.int64
    assert ids[0, -1] == 49407
    assert (ids[:, 0] == 49406).all()


def test_a_context_without_room_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        BpeTokenizer(1)


def test_further_special_tokens_follow_the_vocabulary_and_are_taken_literally():
    tokenizer = BpeTokenizer(special_tokens=["<mask>", "[x]", "<MASK>"], clean="whitespace")
    assert tokenizer.vocab_size == 49411
    assert tokenizer.encode("<mask>a[x]<MASK>") == [49408, 320, 49409, 49410]
    assert len(tokenizer.encode("<Mask>")) > 1
    assert tokenizer.decode([49408, 320, 49409]) == "<mask>a [x]"
    assert BpeTokenizer(special_tokens=["日 x"]).decode([49408, 320]) == "日 xa "


def test_an_empty_special_token_is_refused():
    with pytest.raises(ValueError, match="empty"):
        BpeTokenizer(special_tokens=["<a>", ""])


@pytest.mark.parametrize("context", [1, 2, 5])
def test_rows_of_another_length(context):
    rows = TOKENIZER.rows(["one two three four five", ""], context)
    assert rows.shape == (2, context)
    assert rows[0, -1] == 49407


def test_no_captions():
    assert TOKENIZER([]).shape == (0, 77)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_ids_in_range_and_one_end(text):
    row = TOKENIZER([text])[0]
    assert row[0] == 49406
    assert row.max() == 49407
    assert row.min() >= 0
    length = int(token_lengths(row[None])[0])
    # Special tokens spelled out in a caption count too, so the first end token may come early.
    assert row[length - 1] == 49407
    assert 2 <= length <= 77


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="abc 1,'", max_size=40))
def test_decoding_gives_the_words_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)).replace(" ", "") == text.replace(" ", "")


def test_decoding_special_and_non_ascii():
    assert TOKENIZER.decode([49406, 320, 22697, 49407]) == "<start_of_text>a diagram <end_of_text>"
    assert TOKENIZER.decode(TOKENIZER.encode("日本語 café 😀")) == "日本語 café 😀 "


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=0x7F), max_size=40))
def test_the_fast_path_equals_the_slow_one(text):
    cleaned = html.unescape(html.unescape(ftfy.fix_text(text))).lower()
    words = TOKENIZER._unicode_words.findall(" ".join(cleaned.split()))
    assert TOKENIZER.encode(text) == [index for word in words for index in TOKENIZER._word_ids(word)]


def test_a_lone_surrogate_is_not_an_error():
    assert TOKENIZER.encode("a \ud800 b") == TOKENIZER.encode("a \ufffd b")


def test_the_memo_is_bounded(monkeypatch):
    monkeypatch.setattr(bpe_module, "_MEMO_WORDS", 3)
    tokenizer = BpeTokenizer()
    expected = [TOKENIZER.encode(word) for word in ("one", "two", "three", "four", "five")]
    assert [tokenizer.encode(word) for word in ("one", "two", "three", "four", "five")] == expected
    assert len(tokenizer._memo) <= 3
    tokenizer.encode("x" * 100)
    assert "x" * 100 not in tokenizer._memo


def test_a_caption_without_a_space_does_not_stall():
    """200,000 letters; merging that rescans the word for every pair would need minutes."""
    assert len(BpeTokenizer().encode("ab" * 100_000)) > 10_000
    row = BpeTokenizer()(["x " * 200_000])
    assert row[0, -1] == 49407


def test_threads_may_share_a_tokenizer():
    shared = BpeTokenizer()
    captions = [f"a photo of number {i} and word{i % 7}" for i in range(200)]
    expected = TOKENIZER(captions)
    results = {}

    def work(name):
        results[name] = shared(captions)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[name], expected) for name in range(4))


def test_lengths_count_start_and_end():
    assert token_lengths(TOKENIZER(["", "a diagram", "word " * 100])).tolist() == [2, 4, 77]


@pytest.mark.parametrize(
    ("lengths", "context", "multiple", "expected"),
    [([2, 4], 77, 8, 8), ([8], 77, 8, 8), ([9, 3], 77, 8, 16), ([77], 77, 8, 77), ([5], 77, 1, 5), ([], 77, 8, 8)],
)
def test_padded_length(lengths, context, multiple, expected):
    assert padded_length(np.array(lengths, dtype=np.int64), context, multiple) == expected


def test_it_does_not_import_torch():
    code = "import sys, clip_trainer.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

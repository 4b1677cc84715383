"""Token ids equal OpenCLIP's SimpleTokenizer. The hundred thousand captions are in tests/parity."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.captions import SPECIALS, fuzzed_captions
from clip_trainer.text import BpeTokenizer, SimpleTokenizer, canonicalize_text, decode, tokenize
from clip_trainer.text.clean import CLEAN_MODES

pytestmark = pytest.mark.parity
OURS = BpeTokenizer()
CAPTIONS = [caption for _, caption in fuzzed_captions(3000, seed=0)]


@pytest.fixture(scope="module")
def theirs(open_clip):
    return open_clip.SimpleTokenizer()


def test_generated_captions(theirs, open_clip):
    expected = theirs(CAPTIONS).numpy()
    np.testing.assert_array_equal(OURS(CAPTIONS), expected)
    np.testing.assert_array_equal(tokenize(CAPTIONS).numpy(), open_clip.tokenize(CAPTIONS).numpy())
    assert [OURS.encode(caption) for caption in CAPTIONS[:500]] == [theirs.encode(c) for c in CAPTIONS[:500]]


@pytest.mark.parametrize("clean", CLEAN_MODES)
def test_cleaning_modes(open_clip, clean):
    theirs, ours = open_clip.SimpleTokenizer(clean=clean), SimpleTokenizer(clean=clean)
    assert [ours.clean_fn(c) for c in CAPTIONS[:1000]] == [theirs.clean_fn(c) for c in CAPTIONS[:1000]]
    assert torch.equal(ours(CAPTIONS[:1000], 32), theirs(CAPTIONS[:1000], 32))


def test_canonical_text(open_clip):
    from open_clip.tokenizer import canonicalize_text as reference

    for text in (*CAPTIONS[:300], "a {} of_a {}, { and }"):
        assert canonicalize_text(text) == reference(text)
        kept = canonicalize_text(text, keep_punctuation_exact_string="{}")
        assert kept == reference(text, keep_punctuation_exact_string="{}")


@settings(max_examples=500, deadline=None)
@given(text=st.text(max_size=80))
def test_any_unicode_text(theirs, text):
    assert OURS.encode(text) == theirs.encode(text)


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=80))
def test_any_latin_text(theirs, text):
    assert OURS.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("context", [1, 2, 16, 32, 64, 77, 100])
def test_truncation(theirs, context):
    captions = ["word " * count for count in range(0, 80, 1 if context > 8 else 16)]
    expected = theirs(captions, context_length=context)
    assert torch.equal(SimpleTokenizer(context_length=context)(captions), expected)
    if context >= 2:
        np.testing.assert_array_equal(BpeTokenizer(context)(captions), expected.numpy())


@pytest.mark.parametrize("clean", CLEAN_MODES)
def test_special_tokens_inside_captions(open_clip, clean):
    """Theirs go into the pattern unescaped, so only those without special characters can be compared."""
    extra = ["<mask>", "<Image>", "zebra"]
    theirs = open_clip.SimpleTokenizer(additional_special_tokens=extra, clean=clean)
    ours = SimpleTokenizer(additional_special_tokens=extra, clean=clean)
    assert (ours.encoder, ours.vocab_size) == (theirs.encoder, theirs.vocab_size)
    assert ours.all_special_ids == theirs.all_special_ids
    source = random.Random(5)
    pieces = [*SPECIALS, *extra, "<MASK>", "Zebra", "<mask", "a", " ", " x "]
    captions = ["".join(source.choice(pieces) for _ in range(6)) for _ in range(300)]
    assert torch.equal(ours(captions, 20), theirs(captions, 20))
    assert [ours.decode(ours.encode(c)) for c in captions] == [theirs.decode(theirs.encode(c)) for c in captions]


@pytest.mark.parametrize("reduction", ["simple", "random", "shuffle"])
@pytest.mark.parametrize("context", [8, 32])
def test_reductions_draw_alike(open_clip, reduction, context):
    theirs = open_clip.SimpleTokenizer(context_length=context, reduction_mask=reduction)
    ours = SimpleTokenizer(context_length=context, reduction_mask=reduction)
    results = []
    for tokenizer in (ours, theirs):
        random.seed(11)
        torch.manual_seed(11)
        results.append(tokenizer(CAPTIONS[:600]))
    assert torch.equal(*results)


def test_every_token_of_the_vocabulary(theirs):
    ours = SimpleTokenizer()
    assert (ours.decoder, ours.encoder) == (theirs.decoder, theirs.encoder)
    assert ours.bpe_ranks == theirs.bpe_ranks


def test_decoding(theirs, open_clip):
    for text in ("a diagram", "it's naïve 42nd", "日本語 😀", "</w> </", *CAPTIONS[:500]):
        assert OURS.decode(OURS.encode(text)) == theirs.decode(theirs.encode(text))
    half = torch.tensor(theirs.encode("日本語 😀"))[1:3]  # cuts through characters
    assert decode(half) == open_clip.decode(half)


def test_a_table_in_openais_format(open_clip):
    from open_clip.tokenizer import default_bpe

    assert SimpleTokenizer(default_bpe()).encoder == SimpleTokenizer().encoder

"""The merge table and the merging of one word."""

import gzip
import hashlib
import itertools
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_trainer.text.merges import byte_symbols, merge_word, read_merges, vocabulary


def rescan(symbols, ranks):
    """Byte-pair encoding as the paper words it: merge the best pair everywhere, look again."""
    parts = list(symbols)
    while True:
        pairs = {pair: ranks[pair] for pair in itertools.pairwise(parts) if pair in ranks}
        if not pairs:
            return parts
        best = min(pairs, key=pairs.get)
        merged, index = [], 0
        while index < len(parts):
            if tuple(parts[index : index + 2]) == best:
                merged.append(parts[index] + parts[index + 1])
                index += 2
            else:
                merged.append(parts[index])
                index += 1
        parts = merged


@settings(max_examples=300, deadline=None)
@given(
    word=st.text(alphabet="abc", min_size=1, max_size=24),
    pairs=st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=4), st.text("abc", min_size=1, max_size=4)), unique=True
    ),
)
def test_merging_equals_the_definition_for_any_table(word, pairs):
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    assert merge_word(list(word), {" ".join(pair): rank for pair, rank in ranks.items()}) == rescan(word, ranks)


def test_overlapping_pairs_merge_from_the_left():
    assert merge_word(list("aaaaa"), {"a a": 0}) == ["aa", "aa", "a"]


def test_the_lowest_rank_goes_first():
    assert merge_word(list("abc"), {"b c": 0, "a b": 1}) == ["a", "bc"]


def test_the_table_is_openais():
    text = resources.files("clip_trainer.text").joinpath("bpe_merges.txt").read_text(encoding="utf-8")
    header, _, table = text.partition("\n\n")
    assert "MIT License" in header
    assert "Copyright (c) 2021 OpenAI" in header
    digest = hashlib.sha256(table.encode()).hexdigest()
    assert digest == "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
    assert len(read_merges()) == 48_894


def test_the_vocabulary_has_no_duplicates():
    symbols = vocabulary(read_merges())
    assert len(symbols) == len(set(symbols)) == 49_406
    assert symbols[:3] == ["!", '"', "#"]
    assert symbols[256] == "!</w>"
    assert symbols[320] == "a</w>"


def test_every_byte_has_its_own_printable_symbol():
    symbols = byte_symbols()
    assert len(set(symbols)) == 256
    assert all(symbol.isprintable() and not symbol.isspace() for symbol in symbols)


def table_file(path, lines, compress=False):
    data = "\n".join(["#version: 0.2", *lines]).encode()
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_a_table_of_ones_own(tmp_path, compress):
    assert read_merges(table_file(tmp_path / "table", ["a b", "ab c</w>"], compress)) == ("a b", "ab c</w>")


def test_only_the_merges_that_clip_uses_are_read(tmp_path):
    assert len(read_merges(table_file(tmp_path / "table", (f"a{n} b" for n in range(50_000))))) == 48_894


def test_a_line_that_is_no_pair_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no merge table"):
        read_merges(table_file(tmp_path / "table", ["a b", "a b c"]))

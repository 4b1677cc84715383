"""Digests are formats: they must be the same on every machine and in every release."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipctl.contract.digest import CHUNK_BYTES, canonical_json, chunk_digests, self_digest, sha256_hex, xxh3_hex

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


def shuffled(value):
    """The same value with every dictionary built in reverse order."""
    if isinstance(value, dict):
        return {key: shuffled(child) for key, child in reversed(value.items())}
    if isinstance(value, list):
        return [shuffled(child) for child in value]
    return value


@given(JSON)
def test_canonical_json_does_not_depend_on_the_order_of_keys(value):
    try:
        text = canonical_json(value)
    except UnicodeEncodeError:  # lone surrogates are no text
        return
    assert canonical_json(shuffled(value)) == text


def test_canonical_json_is_compact_sorted_utf8():
    assert canonical_json({"b": [1, 2.5, None], "a": "ä"}) == '{"a":"ä","b":[1,2.5,null]}'.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"loss": value})


def test_known_digests():
    # FIPS 180-2 appendix B.1, and the reference implementation's value for no input (xxHash 0.8 XXH3_128bits).
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert xxh3_hex(b"") == "99aa06d3014798d86001c324468d497f"


@given(data=st.binary(max_size=300), size=st.integers(1, 64))
def test_chunks_tile_the_data(data, size):
    digests = chunk_digests(data, size)
    assert len(digests) == -(-len(data) // size)
    assert digests == [xxh3_hex(data[at : at + size]) for at in range(0, len(data), size)]
    assert chunk_digests(memoryview(data), size) == digests


def test_the_default_chunk_is_eight_mebibytes():
    assert CHUNK_BYTES == 8 * 2**20
    assert len(chunk_digests(bytes(CHUNK_BYTES + 1))) == 2


def test_a_record_is_digested_without_its_own_digest():
    record = {"a": 1, "digest": "anything"}
    assert self_digest(record) == self_digest({"a": 1}) == sha256_hex(b'{"a":1}')
    assert self_digest({"a": 2}) != self_digest(record)

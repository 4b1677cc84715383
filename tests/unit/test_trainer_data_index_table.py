"""The files of an index: small numbers in, the same numbers out, and no contradiction unnoticed."""

import json
import sys
import threading
from array import array

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.index import rows as index_rows
from clip_trainer.data.index import table as index_table
from clip_trainer.data.index.format import ShardIndex
from clip_trainer.data.index.header import IndexHeader, TableRef, header_name
from clip_trainer.data.index.join import in_memory, join_index, make_index
from clip_trainer.data.index.rows import (
    ROW_BYTES,
    RowCache,
    SampleRows,
    ShardDetails,
    pack_rows,
    unpack_details,
    unpack_rows,
    verified_block,
)
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.table import (
    IndexedShard,
    ShardEntry,
    decode_head,
    encode_head,
    make_table,
    place_blocks,
)
from clipctl.contract.errors import CorruptError, SpecError

U32, U64, U128 = (st.integers(0, 2**bits - 1) for bits in (32, 64, 128))
NAMES = st.text(st.characters(blacklist_characters='/\\:\0"'), min_size=1, max_size=12).filter(
    lambda name: name != ".."
)
ENTRIES = st.builds(ShardEntry, NAMES, U64, st.text(max_size=8), U64, U128, U64, U32, U64, U32, U32, U32, U32)


@given(entries=st.lists(ENTRIES, max_size=6))
def test_entries_survive_the_table(entries):
    head = encode_head(make_table(entries))
    table = decode_head(head, "t.bin")
    assert [table.entry(shard) for shard in range(len(table))] == entries
    assert table.all_names() == [entry.name for entry in entries]
    assert table.has_names([entry.name for entry in entries])
    assert encode_head(table) == head


def test_names_that_are_not_utf8_survive():
    name = b"caf\xe9.tar".decode("utf-8", "surrogateescape")
    table = decode_head(encode_head(make_table([entry(name=name)])), "t.bin")
    assert table.name(0) == name


def test_names_are_compared_one_by_one():
    table = make_table([entry(name="ab"), entry(name="c")])
    assert table.has_names(["ab", "c"])
    for others in (["a", "bc"], ["ab"], ["c", "ab"], ["ab", "c", ""], []):
        assert not table.has_names(others)


def entry(**change):
    return ShardEntry("a.tar", 1024, "", 0, 1, 0, 0, 0, 1, 1, 1, 0)._replace(**change)


@pytest.mark.parametrize("name", ["../other.tar", "/etc/passwd", "s3://elsewhere/x.tar", "", "a\\b.tar", "a\0.tar"])
def test_names_that_lead_elsewhere_are_refused(name):
    table = make_table([entry(name=name)])
    with pytest.raises(CorruptError, match="does not stay below"):
        table.name(0)
    with pytest.raises(CorruptError, match="does not stay below"):
        table.entry(0)


@given(samples=st.lists(st.tuples(U32, U32, U32), max_size=30), counts=st.dictionaries(st.text(max_size=5), U32))
def test_rows_survive_their_block(samples, counts):
    details = ShardDetails(counts, {"no image": 3})
    starts, lengths, checks = ([row[column] for row in samples] for column in range(3))
    block = pack_rows(starts, lengths, checks, details)
    rows = unpack_rows(block, len(samples))
    assert [rows.range(number) for number in range(len(rows))] == [(512 * s, 512 * n) for s, n, _ in samples]
    assert list(rows.checks) == checks
    assert unpack_details(block, len(samples)) == details


def test_a_machine_of_the_other_byte_order_swaps(monkeypatch):
    """Told to be big-endian, this little-endian one writes and reads what is big-endian to it."""
    monkeypatch.setattr(sys, "byteorder", "big")
    assert index_table._little_endian(array("I", [1])) == b"\0\0\0\1", "swapped, as a big-endian machine must"
    assert index_table._native(memoryview(b"\0\0\0\1"), "I")[0] == 1
    assert index_rows.pack_rows([1], [2], [3], ShardDetails())[:12] == bytes((0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3))


def made(name, samples):
    block = pack_rows(range(samples), [1] * samples, range(samples), ShardDetails({"png": samples}, {"no caption": 1}))
    check = xxhash.xxh3_64_intdigest(block)
    return IndexedShard(entry(name=name, samples=samples, block_bytes=len(block), block_check=check), block)


def test_an_index_sums_up_its_shards():
    index = make_index([made("a", 2), made("b", 3)], SampleRules(min_side=5), {"c": "is empty"})
    header = index.header
    assert (header.shards, header.samples, header.bytes) == (2, 5, 2048)
    assert (header.suffixes, header.left_out, header.damaged) == ({"png": 5}, {"no caption": 2}, {"c": "is empty"})
    assert header.rules == SampleRules(min_side=5)
    assert index.counts == (2, 3)
    assert index.first_ids == (0, 2)
    again = join_index(IndexHeader.from_json(header.to_json(), "h"), in_memory(index.table_file()), "t")
    assert again == index
    assert hash(again) == hash(index)
    assert [shard.sample_range(1) for shard in again.shards] == [(512, 512)] * 2
    assert again.block(1) == made("b", 3).block


def test_shards_are_a_sequence():
    shards = make_index([made(name, 1) for name in "abc"], SampleRules()).shards
    assert [shard.url for shard in shards] == ["a", "b", "c"]
    assert (shards[-1].url, len(shards), [shard.url for shard in shards[::2]]) == ("c", 3, ["a", "c"])
    assert shards[1] is shards[1], "made once"
    with pytest.raises(IndexError):
        shards[3]


def test_the_identity_is_that_of_content_and_samples():
    def identity(*shards):
        return make_index(shards, SampleRules()).identity

    one = made("a", 2)
    assert identity(one) == identity(one._replace(entry=one.entry._replace(etag="e", modified=4)))
    for change in ({"name": "b"}, {"xxh3": 2}, {"xxh3": 1 | 1 << 64}):
        assert identity(one) != identity(one._replace(entry=one.entry._replace(**change)))
    assert identity(one) != identity(made("a", 1))
    assert identity(one, made("b", 1)) != identity(made("b", 1), one)
    fewer = pack_rows([0, 1], [1, 1], [0, 9], ShardDetails({"png": 2}, {"no caption": 1}))
    other = one.entry._replace(block_check=xxhash.xxh3_64_intdigest(fewer), block_bytes=len(fewer))
    assert identity(one) != identity(IndexedShard(other, fewer)), "other samples of the same shard"


def test_a_part_of_an_index():
    index = make_index([made(name, number + 1) for number, name in enumerate("abcd")], SampleRules())
    part = index.subset(["c", "a"])
    assert ([shard.url for shard in part.shards], part.counts, part.samples) == (["c", "a"], (3, 1), 4)
    assert part.shards[0].sample_range(2) == (1024, 512)
    assert part.identity == make_index([made("c", 3), made("a", 1)], SampleRules()).identity
    assert part.whole is index
    assert index.subset(list("abcd")) is index
    with pytest.raises(KeyError):
        index.subset(["x"])


GOOD = make_index([made("a", 2)], SampleRules())


def forged(**change):
    """A header with a digest that fits it, though its content does not fit the table."""
    table = change.pop("table", {})
    fields = {**vars(GOOD.header), **change, "table": TableRef(**{**vars(GOOD.header.table), **table})}
    fields.pop("digest", None)
    return IndexHeader(**fields).to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"shards": 2},
        {"samples": 3},
        {"samples": "2"},
        {"samples": -1},
        {"bytes": 1},
        {"bytes": None},
        {"suffixes": [1]},
        {"damaged": None},
        {"table": {"name": "../index-00000000000000000000000000000000.bin"}},
        {"table": {"name": "index.json"}},
        {"table": {"name": 5}},
        {"table": {"bytes": 1}},
        {"table": {"head_bytes": -1}},
        {"table": {"xxh3": "0" * 32}},
    ],
)
def test_a_header_that_contradicts_its_table_is_refused_even_with_a_right_digest(change):
    with pytest.raises(CorruptError):
        join_index(IndexHeader.from_json(forged(**change), "index.json"), in_memory(GOOD.table_file()), "t.bin")


def resealed(change):
    """The header's JSON changed at will, its digest made to fit."""
    content = json.loads(GOOD.header.to_json())
    del content["digest"]
    change(content)
    text = json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    content["digest"] = xxhash.xxh3_128_hexdigest(text)
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("identity"),
        lambda content: content.update(extra=1),
        lambda content: content.update(table=None),
        lambda content: content["table"].pop("name"),
        lambda content: content.update(rules={"min_side": -4}),
        lambda content: content.update(rules={"shell": "true"}),
        lambda content: content.update(rules=[]),
    ],
)
def test_missing_and_unknown_fields_are_refused(change):
    assert IndexHeader.from_json(resealed(lambda content: None), "index.json") == GOOD.header
    with pytest.raises(CorruptError, match="not a valid shard index"):
        IndexHeader.from_json(resealed(change), "index.json")


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"null", b"{", b'{"format":"other"}', b"\xff\xfe", b"[" * 10, b"[" * 100_000]
)
def test_other_files_are_no_index(payload):
    with pytest.raises(CorruptError):
        IndexHeader.from_json(payload, "index.json")


def test_a_header_is_believed_in_one_spelling_only():
    payload = GOOD.header.to_json()
    for other in (payload + b" ", b" " + payload, payload.replace(b",", b", ", 1), payload[:-1]):
        with pytest.raises(CorruptError, match="does not match its own digest"):
            IndexHeader.from_json(other, "index.json")


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_an_index_of_another_version_says_so(version):
    payload = json.loads(GOOD.header.to_json())
    payload["version"] = version
    with pytest.raises(CorruptError, match=f"version {version!r}") as caught:
        IndexHeader.from_json(json.dumps(payload).encode(), "index.json")
    assert "clipctl data index" in caught.value.hint


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"CLIPIDX2",
        b"CLIPIDX9" + bytes(24),
        encode_head(make_table([entry()])) + b"x",
        encode_head(make_table([entry()]))[:-1],
        b"CLIPIDX2" + (2**60).to_bytes(8, "little") + bytes(16),
        encode_head(make_table([entry(name="ab")])).replace(b"\2\0\0\0\0\0\0\0", b"\3\0\0\0\0\0\0\0", 1),
    ],
)
def test_what_is_no_table_is_refused(head):
    with pytest.raises(CorruptError, match=r"t\.bin"):
        decode_head(head, "t.bin")


def test_ends_of_names_that_contradict_their_length_are_refused():
    head = bytearray(encode_head(make_table([entry(name="ab")])))
    head[32] = 1
    with pytest.raises(CorruptError, match="contradicts itself"):
        decode_head(bytes(head), "t.bin")


def test_blocks_follow_each_other():
    placed = place_blocks([entry(block_bytes=10), entry(block_bytes=4), entry(block_bytes=1)])
    assert [one.block_at for one in placed] == [0, 10, 14]


def test_a_block_is_believed_by_its_digest():
    assert verified_block(b"abc", xxhash.xxh3_64_intdigest(b"abc"), "rows") == b"abc"
    file = bytearray(GOOD.table_file())
    file[GOOD.header.table.head_bytes] ^= 1
    (shard,) = ShardIndex(GOOD.header, GOOD.table, in_memory(bytes(file)), "t").shards
    with pytest.raises(CorruptError, match="t: the rows of a are damaged"):
        shard.sample_range(0)


def some_rows(samples):
    return SampleRows(samples, array("I", range(3 * samples)))


def test_rows_used_last_are_kept_within_a_budget():
    cache = RowCache(budget=10 * ROW_BYTES)
    fetched = []

    def get(shard, samples=4):
        return cache.get(shard, lambda: fetched.append(shard) or some_rows(samples))

    for shard in (0, 1, 0, 2, 0, 1):
        get(shard)
    assert fetched == [0, 1, 2, 1]
    assert len(cache) == 2
    get(7, samples=100)
    assert len(cache) == 1, "rows that are larger than the budget are kept until the next come"
    assert get(7) is get(7)


def test_failures_are_not_kept():
    cache = RowCache()
    with pytest.raises(CorruptError):
        cache.get(0, lambda: verified_block(b"x", 0, "rows"))
    assert len(cache.get(0, lambda: some_rows(2))) == 2


def test_threads_share_the_rows():
    cache = RowCache(budget=20 * ROW_BYTES)
    problems = []

    def use():
        try:
            for turn in range(400):
                assert len(cache.get(turn % 9, lambda: some_rows(5))) == 5
        except AssertionError as problem:
            problems.append(problem)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(cache) == 4


@pytest.mark.parametrize(
    ("name", "file"), [(None, "index.json"), ("big", "index-big.json"), ("v1.2_x", "index-v1.2_x.json")]
)
def test_file_names_of_indexes(name, file):
    assert header_name(name) == file


def test_a_table_can_never_be_taken_for_a_header():
    with pytest.raises(SpecError):
        header_name("index/../x")
    assert not header_name("0" * 32).endswith(".bin")

"""Bringing an index up to date reads what is new or changed, and nothing else."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit.shards import sample_members, tar_bytes, write_dataset
from clip_trainer.data.index import journal as index_journal
from clip_trainer.data.index.build import build_index
from clip_trainer.data.index.changes import find_changes, is_unchanged
from clip_trainer.data.index.dataset import index_dataset, open_dataset
from clip_trainer.data.index.journal import IndexJournal
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.scan import scan_shard
from clip_trainer.data.index.table import ShardEntry
from clip_trainer.data.index.update import IndexOptions
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.storage.source import ObjectInfo
from clip_trainer.data.storage.source_local import LocalSource
from clipctl.contract.errors import CorruptError, MissingError, PermissionDeniedError, UnavailableError

NO_RULES = SampleRules()


class Watched(LocalSource):
    """A directory that remembers which shards were read, and can refuse one."""

    def __init__(self, base):
        super().__init__(base)
        self.read_shards, self.refused = set(), {}

    def read(self, name, offset, length, *, etag=None):
        if name.endswith(".tar"):
            if name in self.refused:
                raise self.refused[name]
            self.read_shards.add(name)
        return super().read(name, offset, length, etag=etag)


@pytest.fixture
def directory(tmp_path):
    write_dataset(tmp_path / "d", [3, 5, 1, 4])
    return tmp_path / "d"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def update(directory, cache):
    """Index the directory; what was read, and the result."""

    def run(options=None, **more):
        source = Watched(str(directory))
        source.refused = more.pop("refused", {})
        found = index_dataset(more.pop("url", str(directory)), options, source=source, cache_dir=cache, **more)
        return source.read_shards, found

    return run


def shard(number):
    return f"shard-{number:06d}.tar"


def rewrite(directory, number, samples):
    """Another shard in the place of one."""
    members = [member for n in range(samples) for member in sample_members(1000 + n)]
    (directory / shard(number)).write_bytes(tar_bytes(members))


def keys(directory, **options):
    dataset = open_dataset(str(directory), **options)
    reader = dataset.open_reader(ReadHints())
    return [reader.read(s, i).key for s, count in enumerate(dataset.counts) for i in range(count)]


def test_the_first_time_everything_is_read(update):
    read, found = update()
    assert read == {shard(number) for number in range(4)}
    assert str(found.changes) == "4 new, 0 changed, 0 unchanged, 0 gone"
    assert found.beside


def test_a_shard_with_another_time_and_the_same_content_is_unchanged(update, directory):
    update()
    os.utime(directory / "shard-000001.tar", ns=(1, 1))
    read, again = update()
    assert read == {shard(1)}
    assert str(again.changes) == "0 new, 0 changed, 4 unchanged, 0 gone"
    assert again.changes.unchanged == tuple(shard.url for shard in again.index.shards)


def test_nothing_changed_nothing_is_read_or_written(update, directory):
    _, first = update()
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    read, again = update()
    assert (read, again.index) == (set(), first.index)
    assert str(again.changes) == "0 new, 0 changed, 4 unchanged, 0 gone"
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_only_changes_are_read(update, directory):
    update()
    rewrite(directory, 1, 7)
    rewrite(directory, 9, 2)
    (directory / shard(2)).unlink()
    read, found = update()
    assert read == {shard(1), shard(9)}
    assert str(found.changes) == "1 new, 1 changed, 2 unchanged, 1 gone"
    assert found.changes.gone == (shard(2),)
    assert found.index.counts == (3, 7, 4, 2)
    everything = build_index(LocalSource(str(directory)), sorted(path.name for path in directory.glob("*.tar")))
    assert found.index.identity == everything.identity, "the same as if all had been read"
    assert found.index.header.suffixes == everything.header.suffixes
    assert len(keys(directory)) == 16


def test_a_shard_of_the_same_size_is_noticed_by_its_time(update, directory):
    update()
    content = (directory / shard(0)).read_bytes()
    (directory / shard(0)).write_bytes(content.replace(b"picture 1", b"picture 7"))
    stamp = (directory / shard(0)).stat().st_mtime_ns + 1_000_000
    os.utime(directory / shard(0), ns=(stamp, stamp))
    read, found = update()
    assert read == {shard(0)}
    assert str(found.changes) == "0 new, 1 changed, 3 unchanged, 0 gone"


def test_force_reads_everything(update):
    update()
    read, found = update(force=True)
    assert len(read) == 4
    assert str(found.changes) == "4 new, 0 changed, 0 unchanged, 0 gone"


def test_other_rules_read_everything_and_no_rules_keep_those_there_are(update):
    update()
    rules = SampleRules(needs=("caption",))
    read, found = update(IndexOptions(rules))
    assert len(read) == 4
    assert found.index.header.rules == rules
    read, found = update()
    assert (read, found.index.header.rules) == (set(), rules)


def test_a_damaged_index_counts_as_none(update, directory):
    update()
    (directory / "index.json").write_bytes(b"{")
    read, _ = update()
    assert len(read) == 4
    assert len(keys(directory)) == 13


def test_only_a_shard_whose_rows_are_damaged_is_read_again(update, directory):
    _, first = update()
    table = first.index.header.table
    payload = bytearray((directory / table.name).read_bytes())
    payload[table.head_bytes + 1] ^= 1
    (directory / table.name).write_bytes(payload)
    read, found = update()
    assert read == {shard(0)}
    assert found.index == first.index
    assert len(keys(directory)) == 13


def test_an_index_of_version_1_is_made_anew(update, directory):
    (directory / "index.json").write_text(
        json.dumps({"format": "clipctl-shard-index", "version": 1, "shards": [], "digest": "0" * 32})
    )
    with pytest.raises(CorruptError, match="has version 1; this clipctl reads 2") as caught:
        open_dataset(str(directory))
    assert "clipctl data index" in caught.value.hint
    update()
    assert len(keys(directory)) == 13


def test_a_damaged_named_index_needs_its_rules(update, directory):
    update(IndexOptions(SampleRules(needs=("image",))), name="n")
    (directory / "index-n.json").write_bytes(b"{")
    with pytest.raises(CorruptError, match=r"index-n\.json"):
        update(name="n")
    update(IndexOptions(SampleRules(needs=("image",))), name="n")
    assert len(keys(directory, name="n")) == 13


def test_damaged_shards_are_left_out_if_asked(update, directory):
    (directory / shard(1)).write_bytes(b"")
    (directory / shard(3)).write_bytes(b"x" * 600)
    with pytest.raises(CorruptError, match="2 of 4 shards cannot be indexed"):
        update()
    assert not (directory / "index.json").exists()
    _, found = update(IndexOptions(skip_damaged=True))
    damaged = open_dataset(str(directory)).index.header.damaged
    assert damaged == {shard(1): f"{shard(1)} is empty (0 bytes).", shard(3): damaged[shard(3)]}
    assert "no tar header" in damaged[shard(3)]
    assert str(directory) not in json.dumps(damaged)
    assert found.index.counts == (3, 1)
    rewrite(directory, 1, 2)
    read, found = update(IndexOptions(skip_damaged=True))
    assert shard(1) in read
    assert (found.index.counts, list(found.index.header.damaged)) == ((3, 2, 1), [shard(3)])


def test_a_data_set_of_damaged_shards_only_is_an_error(update, directory):
    for number in range(4):
        (directory / shard(number)).write_bytes(b"")
    with pytest.raises(CorruptError, match="Every shard of"):
        update(IndexOptions(skip_damaged=True))


def test_a_part_of_an_indexed_directory_brings_its_index_up_to_date(update, directory):
    update()
    rewrite(directory, 1, 7)
    rewrite(directory, 2, 7)
    read, found = update(url=f"{directory}/{shard(1)}")
    assert read == {shard(1), shard(2)}, "an index beside the shards is right for all it lists"
    assert found.index.counts == (3, 7, 7, 4)
    rewrite(directory, 8, 1)
    rewrite(directory, 9, 1)
    read, found = update(url=f"{directory}/shard-00000{{3,9}}.tar")
    assert (read, found.index.counts) == ({shard(9)}, (3, 7, 7, 4, 1))


def test_the_index_of_a_part_is_brought_up_to_date_in_the_cache(update, directory, cache):
    url = f"{directory}/shard-00000{{0..1}}.tar"
    _, first = update(url=url)
    assert not first.beside
    rewrite(directory, 1, 7)
    read, found = update(url=url)
    assert (read, found.beside, found.index.counts) == ({shard(1)}, False, (3, 7))
    assert open_dataset(url, cache_dir=cache).index == found.index


def test_missing_shards_are_named(update, directory):
    with pytest.raises(MissingError, match=rf"{shard(7)} does not exist"):
        update(url=f"{directory}/{shard(7)}")


INFOS = st.builds(
    ObjectInfo,
    st.sampled_from("abcde"),
    st.integers(1, 2),
    st.sampled_from([None, "x", "y"]),
    st.sampled_from([0, 1, 2]),
)


@given(
    before=st.lists(INFOS, unique_by=lambda info: info.name), after=st.lists(INFOS, unique_by=lambda info: info.name)
)
def test_changes_are_a_partition(before, after):
    entries = {info.name: entry(info) for info in before}
    changes = find_changes(after, entries)
    assert sorted(changes.new + changes.changed + changes.unchanged) == sorted(info.name for info in after)
    assert sorted(changes.gone + changes.changed + changes.unchanged) == sorted(entries)
    for info in after:
        if info.name in changes.unchanged:
            old = entries[info.name]
            assert (info.bytes, info.etag or "") == (old.bytes, old.etag)
            assert info.etag or info.modified == old.modified != 0


def entry(info):
    return ShardEntry(info.name, info.bytes, info.etag or "", info.modified, 0, 0, 0, 0, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("stored", "indexed", "same"),
    [
        (("a", 1, "x", 0), ("a", 1, "x", 0), True),
        (("a", 1, "x", 0), ("a", 1, "y", 0), False),
        (("a", 2, "x", 0), ("a", 1, "x", 0), False),
        (("a", 1, None, 5), ("a", 1, None, 5), True),
        (("a", 1, None, 5), ("a", 1, None, 6), False),
        (("a", 1, None, 0), ("a", 1, None, 0), False),  # nobody knows
        (("a", 1, "x", 5), ("a", 1, None, 5), False),  # moved into a store
        (("a", 1, None, 5), ("a", 1, "x", 5), False),
    ],
)
def test_what_is_surely_unchanged(stored, indexed, same):
    assert is_unchanged(ObjectInfo(*stored), entry(ObjectInfo(*indexed))) == same


def test_an_interrupted_indexing_is_taken_up_again(update, directory, cache, monkeypatch):
    monkeypatch.setattr(index_journal, "WORTH_KEEPING", 0)
    one_at_a_time = IndexOptions(threads=1)
    with pytest.raises(UnavailableError):
        update(one_at_a_time, refused={shard(2): UnavailableError("the network is gone")})
    assert not (directory / "index.json").exists()
    read, found = update(one_at_a_time)
    assert read == {shard(2), shard(3)}
    assert str(found.changes) == "4 new, 0 changed, 0 unchanged, 0 gone"
    assert found.index.identity == build_index(LocalSource(str(directory)), map(shard, range(4))).identity
    assert list((cache / "partial").iterdir()) == []


def test_force_does_not_believe_what_was_interrupted(update, monkeypatch):
    monkeypatch.setattr(index_journal, "WORTH_KEEPING", 0)
    with pytest.raises(UnavailableError):
        update(IndexOptions(threads=1), refused={shard(2): UnavailableError("gone")})
    read, _ = update(force=True)
    assert read == {shard(number) for number in range(4)}


def test_what_was_interrupted_is_not_believed_once_the_shard_changed(update, directory, monkeypatch):
    monkeypatch.setattr(index_journal, "WORTH_KEEPING", 0)
    with pytest.raises(UnavailableError):
        update(IndexOptions(threads=1), refused={shard(2): UnavailableError("gone")})
    rewrite(directory, 0, 9)
    read, found = update()
    assert shard(0) in read
    assert shard(1) not in read
    assert found.index.counts == (9, 5, 1, 4)


def test_damage_in_one_shard_keeps_the_work_on_the_others(update, directory, monkeypatch):
    monkeypatch.setattr(index_journal, "WORTH_KEEPING", 0)
    (directory / shard(1)).write_bytes(b"")
    with pytest.raises(CorruptError, match=shard(1)):
        update()
    rewrite(directory, 1, 2)
    read, _ = update()
    assert read == {shard(1)}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, PermissionDeniedError("no")])
def test_reading_ends_soon_after_an_interruption(update, stop):
    with pytest.raises(stop if isinstance(stop, type) else PermissionDeniedError):
        update(IndexOptions(threads=2), refused={shard(0): stop, shard(1): stop})


def scanned(directory, number):
    source = LocalSource(str(directory))
    return scan_shard(source, source.info(shard(number)))


@pytest.fixture
def journal(cache, directory, monkeypatch):
    monkeypatch.setattr(index_journal, "WORTH_KEEPING", 0)
    return lambda rules=NO_RULES, base=directory, place=cache: IndexJournal(place, str(base), rules)


def test_the_journal_gives_back_what_it_was_given(directory, journal):
    shards = [scanned(directory, number) for number in range(4)]
    first = journal()
    for found in shards[:3]:
        first.add(found)
    first.close(finished=False)
    second = journal()
    assert len(second.records()) == 3
    second.add(shards[3])
    second.close(finished=False)
    assert list(journal().records().values()) == shards
    assert journal(SampleRules(min_side=1)).records() == {}
    assert journal(base=directory / "other").records() == {}
    journal().close(finished=True)
    assert journal().records() == {}


def test_a_journal_that_was_cut_or_damaged_keeps_what_lies_before(directory, cache, journal):
    writer = journal()
    shards = [scanned(directory, number) for number in range(3)]
    for found in shards:
        writer.add(found)
    writer.close(finished=False)
    (path,) = cache.iterdir()
    payload = path.read_bytes()
    size = len(payload) // 3
    for cut in range(0, len(payload), 5):
        path.write_bytes(payload[:cut])
        found = list(journal().records().values())
        assert found == shards[: len(found)]
        assert len(found) <= cut // (size - 100)
    for at in range(0, len(payload), 7):
        damaged = bytearray(payload)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        found = list(journal().records().values())
        assert found == shards[: len(found)]
        assert len(found) < 3


def test_what_follows_half_a_record_is_found_again(directory, cache, journal):
    """Killed while it wrote, and interrupted again after that."""
    first = journal()
    shards = [scanned(directory, number) for number in range(4)]
    for found in shards[:2]:
        first.add(found)
    first.close(finished=False)
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    second = journal()
    assert list(second.records()) == [shard(0)]
    second.add(shards[3])
    second.close(finished=False)
    assert list(journal().records()) == [shard(0), shard(3)]


def test_records_that_were_not_asked_for_are_overwritten(directory, journal):
    for number in (0, 1):
        writer = journal()
        writer.add(scanned(directory, number))
        writer.close(finished=False)
    assert list(journal().records()) == [shard(1)]


def test_small_sets_leave_no_journal(directory, cache):
    writer = IndexJournal(cache, str(directory), NO_RULES)
    writer.add(scanned(directory, 0))
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(directory, tmp_path, journal):
    (tmp_path / "file").write_text("in the way")
    writer = journal(place=tmp_path / "file" / "cache")
    for number in range(3):
        writer.add(scanned(directory, number))
    writer.close(finished=True)
    assert writer.records() == {}

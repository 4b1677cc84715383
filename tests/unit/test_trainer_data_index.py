"""The shard index: built from the shards, checked against them, never believed when they disagree."""

import gzip
import os

import pytest

from clip_testkit.shards import png, tar_bytes, write_dataset
from clip_trainer.data.index import store as index_store
from clip_trainer.data.index.check import MAX_QUICK
from clip_trainer.data.index.dataset import Dataset, build_index, index_dataset, open_dataset
from clip_trainer.data.index.format import sample_check
from clip_trainer.data.index.store import load_index, place_beside
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.storage.source_local import LocalSource
from clipctl.contract.errors import (
    CannotCreateError,
    CorruptError,
    MissingError,
    PermissionDeniedError,
    SpecError,
)


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path / "d", [3, 5, 1])
    return tmp_path / "d"


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "clipctl" / "index"


def test_a_missing_index_is_built_and_kept_beside_the_shards(dataset):
    opened = open_dataset(str(dataset))
    assert opened.index.counts == (3, 5, 1)
    assert opened.index.first_ids == (0, 3, 8)
    assert opened.index.samples == 9
    assert opened.index.total_bytes == sum(path.stat().st_size for path in dataset.glob("*.tar"))
    assert load_index(place_beside(opened.source)) == opened.index
    opened.require("image", "caption")


def test_every_sample_lies_where_the_index_says(dataset):
    index = open_dataset(str(dataset)).index
    for shard in index.shards:
        content = (dataset / shard.url).read_bytes()
        for number in range(shard.samples):
            offset, length = shard.sample_range(number)
            assert sample_check(content[offset : offset + length]) == shard.check_values[number]
            assert content[offset:][:6].decode().isdigit()
        assert (shard.images, shard.captions, shard.classes) == (shard.samples, shard.samples, 0)
    assert index.header.suffixes == {"png": 9, "txt": 9}


def test_an_existing_index_is_used_without_reading_shards(dataset):
    open_dataset(str(dataset))
    opened = open_dataset(str(dataset))
    assert opened.source.counters.bytes_read == 0


def test_a_shard_that_vanished_is_named(dataset):
    open_dataset(str(dataset))
    (dataset / "shard-000001.tar").unlink()
    with pytest.raises(MissingError, match=r"shard-000001\.tar"):
        open_dataset(str(dataset))
    open_dataset(str(dataset), check="none")


def test_a_shard_of_another_size_is_named(dataset):
    open_dataset(str(dataset))
    with (dataset / "shard-000002.tar").open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(CorruptError, match=r"shard-000002\.tar has \d+ bytes, the index says"):
        open_dataset(str(dataset))


def test_progress_is_told(dataset):
    events = []
    index_dataset(str(dataset), progress=events.append)
    assert (events[-1].stage, events[-1].done, events[-1].total) == ("index", 3, 3)
    assert events[-1].bytes_done == sum(path.stat().st_size for path in dataset.glob("*.tar"))


def test_a_part_of_a_directory_is_indexed_into_the_cache(dataset, cache_home):
    part = open_dataset(f"{dataset}/shard-00000{{1..2}}.tar")
    assert part.index.counts == (5, 1)
    assert not (dataset / "index.json").exists()
    assert sorted(path.suffix for path in cache_home.iterdir()) == [".bin", ".json"]
    again = open_dataset(f"{dataset}/shard-00000{{1..2}}.tar")
    assert again.source.counters.bytes_read == 0
    assert again.index == part.index


def test_a_part_of_an_indexed_directory_needs_no_second_index(dataset, cache_home):
    whole = open_dataset(str(dataset)).index
    assert open_dataset(f"{dataset}/shard-000001.tar").index.shards[:] == whole.shards[1:2]
    assert not cache_home.exists()
    with pytest.raises(MissingError, match=r"no shard 'shard-000009\.tar'"):
        open_dataset(f"{dataset}/shard-000009.tar")


@pytest.mark.parametrize("refusal", [CannotCreateError, PermissionDeniedError])
def test_a_read_only_dataset_keeps_its_index_in_the_cache(dataset, tmp_path, refusal):
    class ReadOnly(LocalSource):
        def save(self, name, data):
            raise refusal("read only")

    opened = open_dataset(str(dataset), source=ReadOnly(str(dataset)), cache_dir=tmp_path / "elsewhere")
    assert not (dataset / "index.json").exists()
    assert sorted(path.suffix for path in (tmp_path / "elsewhere").iterdir()) == [".bin", ".json"]
    again = open_dataset(str(dataset), source=ReadOnly(str(dataset)), cache_dir=tmp_path / "elsewhere")
    assert again.index == opened.index
    assert again.source.counters.bytes_read == 0


def test_other_processes_attach_without_looking_anything_up(dataset):
    opened = open_dataset(str(dataset))
    attached = Dataset.attach(str(dataset), opened.payload())
    assert attached.index == opened.index
    assert attached.source.counters.bytes_read == 0, "shards are not looked at"


def test_identity_is_that_of_the_content(dataset, tmp_path):
    write_dataset(tmp_path / "copy", [3, 5, 1])
    write_dataset(tmp_path / "other", [3, 5, 2])
    identities = [open_dataset(str(path)).index.identity for path in (dataset, tmp_path / "copy", tmp_path / "other")]
    assert identities[0] == identities[1] != identities[2]


def test_an_empty_directory_is_no_dataset(tmp_path):
    with pytest.raises(MissingError, match="holds no shards"):
        open_dataset(str(tmp_path))


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(MissingError, match="nowhere"):
        open_dataset(str(tmp_path / "nowhere"))
    with pytest.raises(MissingError, match=r"nowhere/s\.tar"):
        open_dataset(str(tmp_path / "nowhere" / "s.tar"))


def test_a_missing_shard_of_a_pattern_is_named(dataset):
    with pytest.raises(MissingError, match=r"shard-000003\.tar"):
        open_dataset(f"{dataset}/shard-00000{{0..3}}.tar")


def test_commands_are_never_run(tmp_path):
    with pytest.raises(SpecError, match="not run"):
        open_dataset(f"pipe:touch {tmp_path}/canary")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("need", ["caption", "class"])
def test_shards_that_cannot_serve_a_purpose_are_named(tmp_path, need):
    (tmp_path / "s.tar").write_bytes(tar_bytes([("a.png", png(1))]))
    opened = open_dataset(str(tmp_path))
    opened.require("image")
    with pytest.raises(CorruptError, match=rf"s\.tar has no {need}"):
        opened.require(need)


def test_one_bad_shard_stops_the_build(dataset):
    (dataset / "shard-000001.tar").write_bytes(b"")
    with pytest.raises(CorruptError, match=r"shard-000001\.tar"):
        build_index(LocalSource(str(dataset)), ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"])


def test_the_same_shards_give_the_same_index_whenever_they_were_written(dataset):
    names = [path.name for path in sorted(dataset.glob("*.tar"))]
    first = build_index(LocalSource(str(dataset)), names)
    os.utime(dataset / names[0], ns=(1, 1))
    assert build_index(LocalSource(str(dataset)), names) == first


def test_several_bad_shards_are_named_together(dataset):
    (dataset / "shard-000000.tar").write_bytes(b"")
    (dataset / "shard-000002.tar").write_bytes(gzip.compress(b"tar" * 999))
    with pytest.raises(CorruptError, match=r"2 of 3 shards cannot be indexed\. .*000000\.tar is empty.*gunzip it"):
        open_dataset(str(dataset))
    assert not (dataset / "index.json").exists()


def test_reading_stops_when_enough_shards_are_bad(tmp_path):
    for shard in range(60):
        (tmp_path / f"{shard:03d}.tar").write_bytes(b"")
    with pytest.raises(CorruptError, match=r"2\d of 60 shards cannot be indexed\..* And 1\d more\."):
        open_dataset(str(tmp_path))


class FewRequests(LocalSource):
    """Counts what is asked for by name."""

    def __init__(self, base):
        super().__init__(base)
        self.asked, self.ranges = [], []

    def info_many(self, names):
        names = list(names)
        self.asked += names
        return super().info_many(names)

    def read(self, name, offset, length, *, etag=None):
        self.ranges.append((name, length))
        return super().read(name, offset, length, etag=etag)


def test_shards_are_compared_with_the_index_up_to_a_number(dataset, monkeypatch):
    open_dataset(str(dataset))
    source = FewRequests(str(dataset))
    monkeypatch.setattr("clip_trainer.data.index.dataset.MAX_QUICK", 2)
    open_dataset(str(dataset), source=source)
    assert source.asked == []
    monkeypatch.setattr("clip_trainer.data.index.dataset.MAX_QUICK", 3)
    open_dataset(str(dataset), source=source)
    assert len(source.asked) == 3
    assert MAX_QUICK == 10_000


def test_shards_are_told_apart_by_etags_where_there_are_some(dataset):
    class Tagged(LocalSource):
        tags = "first"

        def info(self, name):
            return super().info(name)._replace(etag=self.tags)

    index_dataset(str(dataset), source=Tagged(str(dataset)))
    open_dataset(str(dataset), source=Tagged(str(dataset)))
    open_dataset(str(dataset))  # a copy where there are no etags: sizes only
    Tagged.tags = "second"
    with pytest.raises(CorruptError, match=r"shard-000000\.tar has been replaced: its etag differs"):
        open_dataset(str(dataset), source=Tagged(str(dataset)))


def test_the_rows_of_a_large_table_are_read_when_they_are_needed(dataset, monkeypatch):
    open_dataset(str(dataset))
    monkeypatch.setattr(index_store, "_READ_WHOLE", 0)
    source = FewRequests(str(dataset))
    opened = open_dataset(str(dataset), source=source)
    table = opened.index.header.table
    assert source.ranges == [(table.name, table.head_bytes)]
    reader = opened.open_reader(ReadHints())
    for number in range(5):
        assert reader.read(1, number).key == f"{3 + number:06d}"
    of_table = [length for name, length in source.ranges[1:] if name == table.name]
    assert of_table == [opened.index.table.columns["block_bytes"][1]], "one read for the rows of the shard in use"


def test_indexes_have_names(dataset):
    with pytest.raises(MissingError, match=r"no index-big\.json") as caught:
        open_dataset(str(dataset), name="big")
    assert "--name big" in caught.value.hint
    index_dataset(str(dataset), name="big")
    assert open_dataset(str(dataset), name="big").index.samples == 9
    assert not (dataset / "index.json").exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "a b", "x" * 64, ".x", "ü"])
def test_names_of_indexes_are_plain(dataset, name):
    with pytest.raises(SpecError, match="no name for an index"):
        open_dataset(str(dataset), name=name)


def test_the_table_travels_with_an_index_that_only_this_machine_has(dataset, tmp_path):
    class ReadOnly(LocalSource):
        def save(self, name, data):
            raise PermissionDeniedError("read only")

    opened = open_dataset(str(dataset), source=ReadOnly(str(dataset)), cache_dir=tmp_path / "elsewhere")
    assert not opened.beside
    attached = Dataset.attach(str(dataset), opened.payload())
    assert attached.index == opened.index
    assert attached.open_reader(ReadHints()).read(2, 0).key == "000008"
    beside = index_dataset(str(dataset))
    assert beside.beside
    assert len(open_dataset(str(dataset)).payload()) < len(opened.payload())


def test_a_part_is_attached_as_a_part(dataset):
    open_dataset(str(dataset))
    url = f"{dataset}/shard-00000{{1..2}}.tar"
    opened = open_dataset(url)
    attached = Dataset.attach(url, opened.payload())
    assert attached.index == opened.index
    assert (attached.counts, attached.identity) == ((5, 1), opened.identity)
    assert attached.identity != open_dataset(str(dataset)).identity


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"[]", b'{"header": "{}", "table": null}', b'{"header": "", "table": "?"}']
)
def test_a_damaged_payload_is_refused(dataset, payload):
    with pytest.raises(CorruptError):
        Dataset.attach(str(dataset), payload)

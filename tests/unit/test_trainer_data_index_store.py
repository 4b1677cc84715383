"""The two objects of an index: whatever interrupts their writing, what lies there is one whole index."""

import threading
from pathlib import Path

import pytest

from clip_testkit.shards import write_dataset
from clip_trainer.data.index import store as index_store
from clip_trainer.data.index.build import build_index
from clip_trainer.data.index.store import (
    default_cache,
    describe_index,
    join_described,
    load_index,
    place_beside,
    place_in_cache,
    save_index,
)
from clip_trainer.data.storage.location import parse_location
from clip_trainer.data.storage.source_local import LocalSource
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError


class Interrupted(LocalSource):
    """A directory that can be written to a given number of times more."""

    def __init__(self, base, writes):
        super().__init__(base)
        self.writes, self.written = writes, []

    def save(self, name, data):
        if not self.writes:
            raise CannotCreateError("no space left")
        self.writes -= 1
        self.written.append(name)
        super().save(name, data)


@pytest.fixture
def directory(tmp_path):
    write_dataset(tmp_path / "d", [3, 5, 1])
    return tmp_path / "d"


def built(directory, shards):
    return build_index(LocalSource(str(directory)), [f"shard-{number:06d}.tar" for number in shards])


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_saved_is_loaded(directory, whole, monkeypatch):
    monkeypatch.setattr(index_store, "_READ_WHOLE", 0)
    source = LocalSource(str(directory))
    index = built(directory, [0, 1, 2])
    save_index(source, index)
    again = load_index(place_beside(source), whole=whole)
    assert again == index
    assert again.table_file() == index.table_file()
    assert [again.block(shard) for shard in range(3)] == [index.block(shard) for shard in range(3)]


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_wherever_writing_ends_a_whole_index_lies_there(directory, writes):
    old, new = built(directory, [0]), built(directory, [0, 1, 2])
    place = place_beside(LocalSource(str(directory)))
    save_index(place.source, old)
    sink = Interrupted(str(directory), writes)
    if writes < 2:
        with pytest.raises(CannotCreateError):
            save_index(sink, new)
    else:
        save_index(sink, new)
    assert sink.written == [new.header.table.name, "index.json"][:writes], "the table first, then what names it"
    assert load_index(place) == (new if writes == 2 else old)


def test_readers_never_see_a_mixture(directory):
    """One thread writes two indexes in turn, another reads: it always gets one of them."""
    indexes = [built(directory, [0]), built(directory, [0, 1, 2])]
    place = place_beside(LocalSource(str(directory)))
    save_index(place.source, indexes[0])
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for index in indexes:
                save_index(place.source, index)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            found = load_index(place)
            assert found in indexes
            assert [len(shard.check_values) for shard in found.shards] == list(found.counts)
    finally:
        stop.set()
        writer.join()


def test_there_may_be_no_index(directory):
    with pytest.raises(MissingError, match=r"index\.json"):
        load_index(place_beside(LocalSource(str(directory))))


def test_indexes_in_the_cache_do_not_collide(directory, tmp_path):
    source = LocalSource(str(directory))
    names = {
        place_in_cache(source, parse_location(url), tmp_path, name).name
        for url in (str(directory), f"{directory}/a.tar", f"{directory}/{{a,b}}.tar")
        for name in (None, "n", "m")
    }
    assert len(names) == 9
    other = LocalSource(str(directory / "other"))
    assert place_in_cache(other, parse_location(str(directory)), tmp_path).name not in names


def test_the_cache_is_where_the_user_has_it(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert default_cache() == Path("/some/where/clipctl/index")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somebody")
    assert default_cache() == Path("/somebody/.cache/clipctl/index")


@pytest.mark.parametrize("with_table", [True, False])
def test_an_index_is_described_to_another_process(directory, with_table):
    source = LocalSource(str(directory))
    index = built(directory, [0, 1, 2])
    payload = describe_index(index, with_table=with_table)
    if not with_table:
        with pytest.raises(CorruptError, match="that is missing"):
            join_described(payload, source)
        save_index(source, index)
    assert join_described(payload, source) == index
    assert join_described(describe_index(index.subset(["shard-000001.tar"]), with_table=with_table), source) == index


@pytest.mark.parametrize("with_table", [True, False])
def test_every_damage_to_a_description_is_noticed(directory, with_table):
    source = LocalSource(str(directory))
    index = built(directory, [0])
    save_index(source, index)
    payload = describe_index(index, with_table=with_table)
    for at in range(len(payload)):
        damaged = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        try:
            found = join_described(damaged, source)
            rows = [found.block(0)]
        except CorruptError:
            continue
        assert (found, rows) == (index, [index.block(0)]), f"byte {at}"

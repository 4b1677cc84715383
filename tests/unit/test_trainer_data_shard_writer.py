"""Shards and the record beside them: cut by the samples alone, taken up again after any interruption."""

import json
import random
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit.shards import read_shards
from clip_trainer.data.shards.tar import TarReader
from clip_trainer.data.storage.source_local import LocalSource
from clip_trainer.data.writing.shard_producer import NewSample, Unpackable
from clip_trainer.data.writing.shard_record import RECORD_NAME, ShardRecord, find_record, shard_name
from clip_trainer.data.writing.shard_set import write_set
from clip_trainer.data.writing.shard_tar import TarBuffer, archive_size, members_bytes
from clip_trainer.data.writing.shard_writer import WriteOptions
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError, SpecError, UnavailableError


class Numbers:
    """Samples of random sizes; some of them bad."""

    stage = "numbers"

    def __init__(self, count=40, bad=(), **options):
        self.count, self.bad = count, set(bad)
        self.options = {"input": "numbers", "count": count, **options}
        self.made = []

    def __len__(self):
        return self.count

    def produce(self, positions):
        self.made += positions
        return [self.sample(position) for position in positions]

    def sample(self, n):
        if n in self.bad:
            return Unpackable("bad number", f"line {n}", CorruptError(f"{n} is bad."))
        size = random.Random(n).randrange(6000)
        return NewSample(f"{n:03d}", "", (("png", bytes([n % 256]) * size), ("txt", b"%d" % n)))


def written(directory):
    """Name and content of everything, the index and the record too."""
    return {
        path.name: path.read_bytes() for path in Path(directory).iterdir() if path.name[:5] not in ("index", ".shar")
    }


def keys(directory):
    return [key for key, _ in read_shards(Path(directory))]


def test_shards_of_so_many_samples(tmp_path):
    summary = write_set(Numbers(), str(tmp_path), WriteOptions(samples_per_shard=15))
    assert (summary.shards, summary.samples) == (3, 40)
    assert keys(tmp_path) == [f"{n:03d}" for n in range(40)]
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["samples"] == 40
    (tmp_path / shard_name(2)).rename(tmp_path / "last")
    assert keys(tmp_path)[-1] == "029", "the third shard has the last ten"


@pytest.mark.parametrize("limit", [10_240, 20_480, 30_720, 51_200])
def test_shards_of_so_many_bytes(tmp_path, limit):
    write_set(Numbers(), str(tmp_path), WriteOptions(shard_bytes=limit))
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.tar"))]
    assert max(sizes) <= limit
    assert keys(tmp_path) == [f"{n:03d}" for n in range(40)]
    assert len(sizes) <= 2 * sum(sizes) // limit + 1, "no shard is cut early"


def test_a_sample_larger_than_the_limit_has_a_shard_of_its_own(tmp_path):
    summary = write_set(Numbers(5), str(tmp_path), WriteOptions(shard_bytes=1))
    assert (summary.shards, summary.samples) == (5, 5)


@given(
    sizes=st.lists(st.integers(0, 1500), max_size=12),
    names=st.sampled_from(
        ["{}.txt", "dir/{}.x", "k" * 120 + "{}.txt", "d" * 90 + "/" + "e" * 90 + "{}", "grüße-{}.png"]
    ),
)
def test_archives_are_those_of_pythons_writer(sizes, names):
    members = [(names.format(n), bytes([n]) * size) for n, size in enumerate(sizes)]
    tar = TarBuffer()
    for member in members:
        tar.add(members_bytes([member]))
    ours = tar.finish()
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as theirs:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            theirs.addfile(header, BytesIO(data))
    assert ours == buffer.getvalue()
    assert len(ours) == archive_size(tar.size)
    read = TarReader(BytesIO(ours).read, "x.tar", wanted=lambda name: True)
    assert [(member.name, member.data) for member in read] == members


def test_names_that_are_not_utf8_survive():
    name = b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    tar = TarBuffer()
    tar.add(members_bytes([(name, b"x")]))
    assert [member.name for member in TarReader(BytesIO(tar.finish()).read, "x.tar")] == [name]


def test_keys_are_unique_within_a_shard(tmp_path):
    class Same(Numbers):
        def sample(self, n):
            return NewSample("k", f"old-{n // 3}", (("png", b"x"), ("txt", b"%d" % n)))

    write_set(Same(6), str(tmp_path), WriteOptions(samples_per_shard=5))
    assert keys(tmp_path) == ["k", "old-0/k", "old-0/2/k", "old-1/k", "old-1/2/k", "k"]


def test_errors_stop_the_work_or_are_listed(tmp_path):
    with pytest.raises(CorruptError, match="7 is bad"):
        write_set(Numbers(bad=[7, 20]), str(tmp_path / "a"), WriteOptions(workers=3))
    options = WriteOptions(samples_per_shard=10, skip_errors=True)
    summary = write_set(Numbers(bad=[7, 10, 11, 39]), str(tmp_path / "b"), options)
    assert (summary.samples, summary.shards, summary.skipped) == (36, 4, {"bad number": 4})
    reports = {path.name: path.read_text() for path in (tmp_path / "b").glob("*.errors.jsonl")}
    assert set(reports) == {"shard-000000.errors.jsonl", "shard-000003.errors.jsonl"}
    lines = [json.loads(line) for line in reports["shard-000000.errors.jsonl"].splitlines()]
    assert lines == [{"where": f"line {n}", "reason": "bad number", "problem": f"{n} is bad."} for n in (7, 10, 11)]


class Stopped(Exception):
    """The process was killed."""


class Stopping(LocalSource):
    """A directory whose process dies just before the n-th save."""

    def __init__(self, base, at):
        super().__init__(base)
        self.left = at

    def save(self, name, data):
        self.left -= 1
        if self.left <= 0:
            raise Stopped
        super().save(name, data)


OPTIONS = WriteOptions(samples_per_shard=6, workers=2, skip_errors=True)
OPTIONS_STRICT = WriteOptions(samples_per_shard=6, workers=2)


@pytest.mark.parametrize("at", range(1, 22))
def test_killed_before_any_save_it_ends_with_the_same_bytes(tmp_path, monkeypatch, at):
    """Every state of the directory between two changes, as a kill would leave it."""
    producer = {"bad": [3, 17, 18], "count": 40}
    write_set(Numbers(**producer), str(tmp_path / "whole"), OPTIONS, beside={"classes.json": b"[]"})
    dying = Stopping(str(tmp_path / "out"), at)
    monkeypatch.setattr("clip_trainer.data.writing.shard_set.open_source", lambda location: dying)
    try:
        write_set(Numbers(**producer), str(tmp_path / "out"), OPTIONS, beside={"classes.json": b"[]"})
    except Stopped:
        pass
    else:
        assert at > 19, "a record, 7 shards with theirs, 2 reports, the classes, the index and the last record"
    monkeypatch.undo()
    again = Numbers(**producer)
    summary = write_set(again, str(tmp_path / "out"), OPTIONS, beside={"classes.json": b"[]"})
    assert written(tmp_path / "out") == written(tmp_path / "whole")
    assert summary.samples == 37
    assert len(again.made) == 40 - summary.resumed, "what is whole is not made again"


def test_a_second_call_says_that_all_is_done(tmp_path):
    first = write_set(Numbers(), str(tmp_path), OPTIONS)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = Numbers()
    second = write_set(again, str(tmp_path), OPTIONS)
    assert (first.complete, second.complete) == (False, True)
    assert (second.shards, second.samples, second.identity) == (first.shards, 40, first.identity)
    assert again.made == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("producer", "options", "different"),
    [
        (Numbers(41), OPTIONS, "count"),
        (Numbers(seed=1), OPTIONS, "seed"),
        (Numbers(), WriteOptions(samples_per_shard=7), "samples_per_shard"),
        (Numbers(), WriteOptions(samples_per_shard=6, shard_bytes=10), "shard_bytes"),
    ],
)
def test_other_arguments_are_refused_and_named(tmp_path, producer, options, different):
    write_set(Numbers(), str(tmp_path), OPTIONS)
    before = written(tmp_path)
    with pytest.raises(CannotCreateError, match=rf"other arguments \(different: {different}\)"):
        write_set(producer, str(tmp_path), options)
    assert written(tmp_path) == before


def test_arguments_may_change_as_long_as_there_is_no_shard(tmp_path):
    with pytest.raises(CorruptError, match="2 is bad"):
        write_set(Numbers(bad=[2], seed=1), str(tmp_path), OPTIONS_STRICT)
    assert (tmp_path / RECORD_NAME).exists()
    assert write_set(Numbers(seed=2), str(tmp_path), OPTIONS_STRICT).samples == 40


def test_workers_and_treatment_of_errors_may_change(tmp_path):
    with pytest.raises(CorruptError, match="20 is bad"):
        write_set(Numbers(bad=[20]), str(tmp_path), WriteOptions(samples_per_shard=6, workers=1))
    summary = write_set(Numbers(bad=[20]), str(tmp_path), OPTIONS)
    assert (summary.samples, summary.resumed) == (39, 18)


def test_shards_that_vanished_are_named(tmp_path):
    write_set(Numbers(), str(tmp_path), OPTIONS)
    (tmp_path / shard_name(2)).unlink()
    with pytest.raises(MissingError, match=r"lacks shard-000002\.tar"):
        write_set(Numbers(), str(tmp_path), OPTIONS)


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b'{"format": "other"}', lambda data: data.replace(b'"samples": 40', b'"samples": 41')],
)
def test_a_damaged_record_is_not_believed(tmp_path, damage):
    write_set(Numbers(), str(tmp_path), OPTIONS)
    path = tmp_path / RECORD_NAME
    path.write_bytes(damage(path.read_bytes()) if callable(damage) else damage)
    with pytest.raises(CorruptError, match=r"pack\.json is damaged"):
        write_set(Numbers(), str(tmp_path), OPTIONS)


def test_a_record_survives_being_written(tmp_path):
    source = LocalSource(str(tmp_path))
    record = ShardRecord({"input": "ü", "size": None}, 0, 7, 5, 1000, {"why": 2})
    record.save(source)
    assert find_record(source, {"input": "ü", "size": None}) == record
    assert not record.finished


def test_a_store_that_fails_ends_the_work(tmp_path, monkeypatch):
    class Full(LocalSource):
        def save(self, name, data):
            if name == shard_name(3):
                raise UnavailableError("The store is gone.")
            super().save(name, data)

    monkeypatch.setattr("clip_trainer.data.writing.shard_set.open_source", lambda location: Full(location.base))
    with pytest.raises(UnavailableError, match="gone"):
        write_set(Numbers(400), str(tmp_path), OPTIONS)
    assert json.loads((tmp_path / RECORD_NAME).read_text())["shards"] == 3


def test_several_shards_are_on_their_way_to_a_remote_store(tmp_path, monkeypatch):
    """The record never runs ahead of the shards, even if a later shard arrives first."""
    import threading

    arrived = threading.Event()

    class Remote(LocalSource):
        remote = True

        def save(self, name, data):
            if name == shard_name(0):
                assert arrived.wait(60), "the second shard does not wait for the first"
            if name == RECORD_NAME:
                there = {path.name for path in tmp_path.glob("*.tar")}
                assert {shard_name(n) for n in range(json.loads(data)["shards"])} <= there
            super().save(name, data)
            if name == shard_name(1):
                arrived.set()

    monkeypatch.setattr("clip_trainer.data.writing.shard_set.open_source", lambda location: Remote(location.base))
    assert write_set(Numbers(), str(tmp_path), OPTIONS).shards == 7


def test_progress_tells_of_samples_and_goes_on_after_an_interruption(tmp_path):
    events = []
    with pytest.raises(CorruptError):
        write_set(Numbers(100, bad=[50]), str(tmp_path), WriteOptions(samples_per_shard=6))
    write_set(Numbers(100, bad=[50]), str(tmp_path), OPTIONS, progress=events.append)
    mine = [event for event in events if event.stage == "numbers"]
    assert mine[0].done >= 48
    assert (mine[-1].done, mine[-1].total) == (100, 100)
    assert [event.done for event in mine] == sorted(event.done for event in mine)
    assert {event.stage for event in events} == {"numbers", "index"}


@pytest.mark.parametrize("option", ["samples_per_shard", "shard_bytes", "workers"])
def test_numbers_that_mean_nothing(option):
    with pytest.raises(SpecError, match="at least one"):
        WriteOptions(**{option: 0 if option != "shard_bytes" else -1})

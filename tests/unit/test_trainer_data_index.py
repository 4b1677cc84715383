"""The shard index: built from the shards, checked against them, never believed when they disagree."""

import io
import json
import tarfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.shards import png, sample_members, tar_bytes, write_dataset
from clip_trainer.data.index import Dataset, build_index, index_dataset, open_dataset
from clip_trainer.data.index_build import scan_shard
from clip_trainer.data.index_format import ShardIndex, pack_uint32, sample_check, unpack_uint32
from clip_trainer.data.source_local import LocalSource
from clip_trainer.data.verify import verify_dataset
from clipctl.contract.errors import (
    CannotCreateError,
    CorruptError,
    ExitCode,
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
    assert ShardIndex.from_json((dataset / "index.json").read_bytes()) == opened.index
    opened.require("image", "caption")


def test_every_sample_lies_where_the_index_says(dataset):
    index = open_dataset(str(dataset)).index
    for shard in index.shards:
        content = (dataset / shard.url).read_bytes()
        for number in range(shard.samples):
            offset, length = shard.sample_range(number)
            assert sample_check(content[offset : offset + length]) == shard.check_values[number]
            assert content[offset:][:6].decode().isdigit()
        assert shard.suffixes == {"png": shard.samples, "txt": shard.samples}


def test_the_index_survives_its_own_file(dataset):
    index = open_dataset(str(dataset)).index
    again = ShardIndex.from_json(index.to_json())
    assert again == index
    assert again.digest == index.digest
    assert again.to_json() == index.to_json()


@given(numbers=st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_number_arrays_survive(numbers):
    assert unpack_uint32(pack_uint32(numbers)).tolist() == numbers


def test_an_existing_index_is_used_without_reading_shards(dataset):
    open_dataset(str(dataset))
    opened = open_dataset(str(dataset))
    assert opened.source.counters.bytes_read == 0


@pytest.mark.parametrize("byte", range(0, 600, 7))
def test_a_damaged_index_is_noticed(dataset, byte):
    open_dataset(str(dataset))
    path = dataset / "index.json"
    payload = bytearray(path.read_bytes())
    payload[byte] ^= 0x04
    path.write_bytes(payload)
    with pytest.raises(CorruptError, match=r"index\.json"):
        open_dataset(str(dataset))


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b'{"format":"other"}', b"\xff\xfe", b"[" * 10])
def test_other_files_are_no_index(payload):
    with pytest.raises(CorruptError):
        ShardIndex.from_json(payload)


def test_an_index_of_a_newer_version_says_so(dataset):
    payload = json.loads(open_dataset(str(dataset)).index.to_json())
    payload["version"] = 99
    with pytest.raises(CorruptError, match="version 99"):
        ShardIndex.from_json(json.dumps(payload).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 4},
        {"samples": 0},
        {"samples": "3"},
        {"url": "../other.tar"},
        {"url": "/etc/passwd"},
        {"url": "s3://elsewhere/x.tar"},
        {"lengths": "AAAA"},
        {"start": -512},
    ],
)
def test_an_index_that_contradicts_itself_is_refused_even_with_a_right_digest(dataset, change):
    index = open_dataset(str(dataset)).index
    forged = ShardIndex((replace(index.shards[0], **change),))
    with pytest.raises(CorruptError, match=r"index\.json"):
        ShardIndex.from_json(forged.to_json())


def test_missing_and_unknown_fields_are_refused(dataset):
    from clip_trainer.data.index_format import _digest

    content = json.loads(open_dataset(str(dataset)).index.to_json())
    del content["digest"], content["shards"][0]["xxh3"]
    content["digest"] = _digest({k: v for k, v in content.items() if k != "digest"})
    with pytest.raises(CorruptError, match="not a valid shard index"):
        ShardIndex.from_json(json.dumps(content).encode())


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


def test_verify_reports_every_problem(dataset):
    open_dataset(str(dataset))
    assert verify_dataset(str(dataset), deep=True).ok
    (dataset / "shard-000000.tar").unlink()
    damaged = bytearray((dataset / "shard-000001.tar").read_bytes())
    damaged[600] ^= 1
    (dataset / "shard-000001.tar").write_bytes(damaged)
    quick, deep = (verify_dataset(str(dataset), deep=deep) for deep in (False, True))
    assert [problem.shard for problem in quick.problems] == ["shard-000000.tar"]
    assert [problem.shard for problem in deep.problems] == ["shard-000000.tar", "shard-000001.tar"]
    assert "other content" in deep.problems[1].problem
    assert (deep.shards, deep.samples, deep.ok) == (3, 9, False)


def test_verify_sees_an_index_that_lies_about_a_shard(dataset):
    index = open_dataset(str(dataset)).index
    forged = replace(index.shards[0], start=0, checks=index.shards[0].lengths)
    (dataset / "index.json").write_bytes(ShardIndex((forged, *index.shards[1:])).to_json())
    report = verify_dataset(str(dataset), deep=True)
    assert "wrongly" in report.problems[0].problem


def test_verify_needs_an_index(dataset):
    with pytest.raises(MissingError, match=r"index\.json"):
        verify_dataset(str(dataset))


def test_progress_is_told(dataset):
    events = []
    index_dataset(str(dataset), progress=events.append)
    assert (events[-1].stage, events[-1].done, events[-1].total) == ("index", 3, 3)
    assert events[-1].bytes_done == sum(path.stat().st_size for path in dataset.glob("*.tar"))


def test_force_builds_again(dataset):
    first = index_dataset(str(dataset)).index
    write_dataset(dataset, [40])
    with pytest.raises(CorruptError):
        index_dataset(str(dataset))
    assert index_dataset(str(dataset), force=True).index.counts == (40, 5, 1)
    assert open_dataset(str(dataset)).index.identity != first.identity


def test_a_part_of_a_directory_is_indexed_into_the_cache(dataset, cache_home):
    part = open_dataset(f"{dataset}/shard-00000{{1..2}}.tar")
    assert part.index.counts == (5, 1)
    assert not (dataset / "index.json").exists()
    assert len(list(cache_home.iterdir())) == 1
    again = open_dataset(f"{dataset}/shard-00000{{1..2}}.tar")
    assert again.source.counters.bytes_read == 0
    assert again.index == part.index


def test_a_part_of_an_indexed_directory_needs_no_second_index(dataset, cache_home):
    whole = open_dataset(str(dataset)).index
    assert open_dataset(f"{dataset}/shard-000001.tar").index.shards == whole.shards[1:2]
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
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    again = open_dataset(str(dataset), source=ReadOnly(str(dataset)), cache_dir=tmp_path / "elsewhere")
    assert again.index == opened.index
    assert again.source.counters.bytes_read == 0


def test_other_processes_attach_without_looking_anything_up(dataset):
    opened = open_dataset(str(dataset))
    attached = Dataset.attach(str(dataset), opened.index.to_json())
    assert attached.index == opened.index
    assert attached.source.counters.requests == 0


def test_identity_is_that_of_the_content(dataset, tmp_path):
    write_dataset(tmp_path / "copy", [3, 5, 1])
    write_dataset(tmp_path / "other", [3, 5, 2])
    identities = [open_dataset(str(path)).index.identity for path in (dataset, tmp_path / "copy", tmp_path / "other")]
    assert identities[0] == identities[1] != identities[2]


def scan(tmp_path, content):
    (tmp_path / "s.tar").write_bytes(content)
    return scan_shard(LocalSource(str(tmp_path)), "s.tar")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (tar_bytes([]), "holds no samples"),
        (tar_bytes([("README", b"hello")]), "holds no samples"),
        (tar_bytes([("a.txt", b"only text")]), "holds no images"),
        (tar_bytes([("a.pkl", b"cos\nsystem\n")]), "holds no images"),
        (tar_bytes([*sample_members(1), *sample_members(1)[:1]]), "two members 'png'"),
        (tar_bytes([*sample_members(1), *sample_members(2), *sample_members(1)]), "occurs twice"),
        (tar_bytes(sample_members(1))[:-10000], "truncated"),
        (b"<html>no</html>" * 100, "no tar header"),
    ],
)
def test_bad_shards_are_named(tmp_path, content, problem):
    with pytest.raises(CorruptError, match=problem) as caught:
        scan(tmp_path, content)
    assert "s.tar" in caught.value.problem
    assert caught.value.code == ExitCode.CORRUPT


def test_what_belongs_to_no_sample_is_passed_over(tmp_path):
    members = [("README", b"x" * 600), *sample_members(1), ("LICENSE", b"y"), *sample_members(2), ("end", b"z")]
    shard = scan(tmp_path, tar_bytes(members, tarfile.PAX_FORMAT))
    assert shard.samples == 2
    assert shard.start == 512 + 1024
    content = (tmp_path / "s.tar").read_bytes()
    for number in range(2):
        offset, length = shard.sample_range(number)
        assert sample_check(content[offset : offset + length]) == shard.check_values[number]


def test_names_that_point_elsewhere_touch_nothing(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("../../evil.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, data in [("../../../tmp/x.png", png(1)), ("../../../tmp/x.txt", b"t"), ("/abs.png", png(2))]:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    shard = scan(tmp_path / "inner" if (tmp_path / "inner").mkdir() else tmp_path, buffer.getvalue())
    assert shard.samples == 2
    assert not (tmp_path.parent / "x.png").exists()


@given(cut=st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_every_truncation_of_a_shard_is_noticed(tmp_path_factory, cut):
    content = tar_bytes(sample_members(1) + sample_members(2))
    content = content.rstrip(b"\0") + bytes(512 - len(content.rstrip(b"\0")) % 512) + bytes(1024)
    directory = tmp_path_factory.mktemp("cut")
    with pytest.raises(CorruptError):
        scan(directory, content[: max(0, len(content) - cut)])


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
    with pytest.raises(SpecError, match="never run"):
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

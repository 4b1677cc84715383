"""Parquet tables: paths or images inside, one file or many, and damage that is named."""

import builtins
import os
import tempfile
from decimal import Decimal

import pyarrow as arrow
import pytest
from pyarrow import parquet

from clip_testkit.shards import png, read_shards
from clip_trainer.data.pack.columns import Columns
from clip_trainer.data.pack.input import open_input
from clip_trainer.data.pack.item import PackItem
from clip_trainer.data.pack.pack import pack
from clip_trainer.data.pack.parquet import ParquetTable
from clip_trainer.data.writing.shard_producer import Unpackable
from clip_trainer.data.writing.shard_writer import WriteOptions
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError, PermissionDeniedError, SpecError


def write(path, rows, **options):
    parquet.write_table(arrow.Table.from_pylist(rows), path, **options)
    return path


def every(source):
    return [source[number] for number in range(len(source))]


def test_paths_and_captions(tmp_path):
    rows = [
        {"image": f"{n}.png", "caption": f"c {n}", "cls": n % 2, "class_name": "ab"[n % 2], "other": 1}
        for n in range(5)
    ]
    path = write(tmp_path / "t.parquet", rows)
    found = open_input(path)
    assert isinstance(found, ParquetTable)
    assert (len(found), found.classes) == (5, ("a", "b"))
    assert every(found) == [
        PackItem(f"{tmp_path}/{n}.png", (f"c {n}",), n % 2, "ab"[n % 2], where=f"{path}:{n + 1}") for n in range(5)
    ]


@pytest.mark.parametrize(
    "cell",
    [
        lambda n: png(n),
        lambda n: {"bytes": png(n), "path": f"{n}.png"},
        lambda n: {"bytes": png(n), "path": None},
    ],
)
def test_images_inside_are_packed(tmp_path, cell):
    path = write(tmp_path / "t.parquet", [{"image": cell(n), "caption": f"picture {n}"} for n in range(9)])
    pack(open_input(path), str(tmp_path / "out"), WriteOptions(samples_per_shard=4, workers=3))
    found = {(members["png"], members["txt"]) for _, members in read_shards(tmp_path / "out")}
    assert found == {(png(n), b"picture %d" % n) for n in range(9)}


def test_a_structure_may_name_a_file(tmp_path):
    (tmp_path / "x.png").write_bytes(png(3))
    path = write(tmp_path / "t.parquet", [{"image": {"bytes": None, "path": "x.png"}, "caption": "x"}])
    pack(open_input(path), str(tmp_path / "out"))
    assert read_shards(tmp_path / "out")[0][1]["png"] == png(3)


def test_all_files_of_a_directory_are_one_table(tmp_path):
    for part in range(3):
        rows = [{"image": f"{part}-{n}.png", "caption": "x"} for n in range(4 - part)]
        write(tmp_path / f"train-{part:05d}-of-00003.parquet", rows, row_group_size=2)
    (tmp_path / ".hidden.parquet").write_bytes(b"no table")
    found = open_input(tmp_path)
    assert [os.path.basename(item.image) for item in every(found)] == [
        f"{p}-{n}.png" for p in range(3) for n in range(4 - p)
    ]
    assert found[5].where == f"{tmp_path}/train-00001-of-00003.parquet:2"
    write(tmp_path / "zzz.parquet", [{"image": "x.png", "caption": "x", "more": 1}])
    assert len(open_input(tmp_path)) == 10, "columns that do not matter may differ"
    write(tmp_path / "zzz.parquet", [{"image": b"x", "caption": "x"}])
    with pytest.raises(SpecError, match=r"zzz\.parquet has other types of columns than .*train-00000"):
        open_input(tmp_path)


def test_many_batches(tmp_path):
    """More rows than one batch holds, some of them in another split, so that numbers and places differ."""
    rows = [{"image": f"{n}.png", "caption": f"c{n}", "split": "val" if n % 3 else "train"} for n in range(2000)]
    path = write(tmp_path / "t.parquet", rows, row_group_size=300)
    found = open_input(path, Columns(split="train"))
    assert [item.captions[0] for item in every(found)] == [f"c{n}" for n in range(0, 2000, 3)]
    assert found[100].where == f"{path}:301"
    with pytest.raises(MissingError, match="no rows with split = 'test'"):
        open_input(path, Columns(split="test"))


def test_metadata_of_every_type_becomes_json(tmp_path):
    import datetime

    row = {
        "image": "a.png",
        "caption": ["one", "two"],
        "n": 7,
        "f": float("nan"),
        "d": Decimal("1.50"),
        "t": datetime.datetime(2020, 1, 2, 3, 4, 5),
        "l": [1, 2],
        "s": {"k": "v"},
        "b": True,
    }
    path = write(tmp_path / "t.parquet", [row])
    (item,) = every(open_input(path, Columns(metadata=("n", "f", "d", "t", "l", "s", "b"))))
    assert item.captions == ("one", "two")
    assert item.metadata == {
        "n": 7,
        "f": None,
        "d": "1.50",
        "t": "2020-01-02 03:04:05",
        "l": [1, 2],
        "s": {"k": "v"},
        "b": True,
    }


def test_bad_rows(tmp_path):
    rows = [{"image": "a.png", "caption": "x"}, {"image": None, "caption": "y"}, {"image": "b.png", "caption": ""}]
    path = write(tmp_path / "t.parquet", rows)
    with pytest.raises(SpecError, match=r"t\.parquet:2: no image"):
        open_input(path)
    found = open_input(path, strict=False)
    assert found[0].captions == ("x",)
    with pytest.raises(Unpackable, match="no image"):
        found[1]
    with pytest.raises(Unpackable, match="no caption"):
        found[2]


@pytest.mark.parametrize("columns", [Columns(image="url"), Columns(captions=("text",)), Columns(metadata=("url",))])
def test_missing_columns(tmp_path, columns):
    path = write(tmp_path / "t.parquet", [{"image": "a.png", "caption": "x"}])
    with pytest.raises(SpecError, match=r"no column '(url|text)'; there are 'image', 'caption'"):
        open_input(path, columns)


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not a table at all")
    with pytest.raises(CorruptError, match=r"a\.parquet is not a Parquet file"):
        open_input(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"")
    with pytest.raises(CorruptError, match=r"b\.parquet is not a Parquet file"):
        open_input(tmp_path / "b.parquet")
    with pytest.raises(MissingError, match=r"none\.parquet"):
        open_input(tmp_path / "none.parquet")
    write(tmp_path / "empty.parquet", [{"image": "a.png", "caption": "x"}])
    parquet.write_table(parquet.read_table(tmp_path / "empty.parquet").slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(MissingError, match="has no rows"):
        open_input(tmp_path / "empty.parquet")


def test_damaged_pages_are_noticed(tmp_path):
    path = write(tmp_path / "t.parquet", [{"image": os.urandom(5000), "caption": f"{n}"} for n in range(50)])
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="damaged"):
        open_input(path)


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", [{"image": "a.png", "caption": "x"}])

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(PermissionDeniedError, match="Permission denied"):
        ParquetTable([path], Columns())


def test_no_room_for_the_copy(tmp_path, monkeypatch):
    path = write(tmp_path / "t.parquet", [{"image": "a.png", "caption": "x"}])

    def full(**options):
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(CannotCreateError) as caught:
        ParquetTable([path], Columns())
    assert "TMPDIR" in caught.value.hint


def test_the_copy_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    path = write(tmp_path / "t.parquet", [{"image": png(n), "caption": "x"} for n in range(5)])
    found = open_input(path)
    assert list((tmp_path / "scratch").iterdir()) == [], "it has no name even while it is in use"
    assert found[4].image == png(4)


def test_the_identity_depends_on_content_and_meaning(tmp_path):
    rows = [{"image": "a.png", "caption": "x", "alt": "z"}, {"image": "b.png", "caption": "y", "alt": "z"}]
    one = open_input(write(tmp_path / "a.parquet", rows)).identity
    assert open_input(write(tmp_path / "b.parquet", rows)).identity == one
    others = {
        open_input(tmp_path / "a.parquet", Columns(captions=("alt",))).identity,
        open_input(write(tmp_path / "c.parquet", rows[:1])).identity,
        open_input(write(tmp_path / "d.parquet", [{**rows[0], "caption": "q"}, rows[1]])).identity,
    }
    assert len(others | {one}) == 4


def test_without_pyarrow_the_remedy_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SpecError) as caught:
        open_input(tmp_path / "t.parquet")
    assert caught.value.hint == "Run `pip install 'clipctl[parquet]'`."

"""Text tables: rows found again by their place, and errors that name the line."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.pack.columns import Columns
from clip_trainer.data.pack.item import PackItem
from clip_trainer.data.pack.table import TextTable
from clip_trainer.data.writing.shard_producer import Unpackable
from clipctl.contract.errors import MissingError, PermissionDeniedError, SpecError, UnavailableError


def table(directory, name, text):
    (directory / name).write_text(text, encoding="utf-8", newline="")
    return directory / name


def items(path, columns=None, **options):
    found = TextTable(path, columns or Columns(), **options)
    return [found[number] for number in range(len(found))]


CSV = 'image,caption,cls,class_name\ncat/1.png,"a cat,\nsitting",0,cat\n\nbig_dog/0.png,"a ""dog""",,\n'
LINES = [
    {"image": "cat/1.png", "caption": "a cat,\nsitting", "cls": 0, "class_name": "cat"},
    {"image": "big_dog/0.png", "caption": ['a "dog"']},
]
JSONL = "\n\n".join(json.dumps(line) for line in LINES) + "\n\n"


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("t.csv", CSV, (3, 5)),
        ("t.csv", "\ufeff" + CSV.replace("\n", "\r\n"), (3, 5)),
        ("t.tsv", CSV.replace(",", "\t").replace("cat\t\nsit", "cat,\nsit"), (3, 5)),
        ("T.TSV", CSV.replace(",", "\t").replace("cat\t\nsit", "cat,\nsit").rstrip("\n"), (3, 5)),
        ("t.jsonl", JSONL, (1, 3)),
        ("t.jsonl", "\ufeff" + JSONL.rstrip("\n"), (1, 3)),
    ],
)
def test_the_same_rows_in_every_kind_of_table(tmp_path, name, text, lines):
    found = items(table(tmp_path, name, text))
    caption = "a cat,\r\nsitting" if "\r" in text else "a cat,\nsitting"
    assert found == [
        PackItem(f"{tmp_path}/cat/1.png", (caption,), 0, "cat", where=f"{tmp_path / name}:{lines[0]}"),
        PackItem(f"{tmp_path}/big_dog/0.png", ('a "dog"',), where=f"{tmp_path / name}:{lines[1]}"),
    ]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).filter(lambda text: text.strip())


@given(captions=st.lists(cells, min_size=1, max_size=8), kind=st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_any_caption_survives(tmp_path_factory, captions, kind):
    import csv
    import io

    if kind == ".jsonl":
        text = "".join(json.dumps({"image": "a.png", "caption": caption}) + "\n" for caption in captions)
    else:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter="," if kind == ".csv" else "\t", lineterminator="\n")
        writer.writerows([["image", "caption"], *(["a.png", caption] for caption in captions)])
        text = buffer.getvalue()
    path = table(tmp_path_factory.mktemp("t"), f"t{kind}", text)
    assert [item.captions for item in items(path)] == [(caption.strip(),) for caption in captions]


def test_columns_can_be_named_and_rows_chosen(tmp_path):
    path = table(tmp_path, "t.csv", "file,en,de,part,id\n1.png,cat,Katze,train,7\n/abs/3.png,cat,Katze,val,8\n")
    columns = Columns("file", ("en", "de"), split="val", split_column="part", root=Path("/pictures"), metadata=("id",))
    (item,) = items(path, columns)
    assert item == PackItem("/abs/3.png", ("cat", "Katze"), metadata={"id": "8"}, where=f"{path}:3")
    (item,) = items(path, Columns("file", ("en",), split="train", split_column="part", root=Path("/pictures")))
    assert item.image == "/pictures/1.png"
    with pytest.raises(MissingError, match="no rows with part = 'test'"):
        items(path, Columns("file", ("en",), split="test", split_column="part"))


def test_another_separator(tmp_path):
    path = table(tmp_path, "t.csv", "image;caption\n1.png;a, b\n")
    assert items(path, separator=";")[0].captions == ("a, b",)
    with pytest.raises(SpecError, match="one character"):
        items(path, separator="::")


def test_metadata_keeps_json_types(tmp_path):
    row = {"image": "a.png", "caption": "x", "n": 1, "f": 0.5, "bad": float("nan"), "l": [True, None], "d": {"k": "v"}}
    path = table(tmp_path, "t.jsonl", json.dumps(row) + "\n")
    (item,) = items(path, Columns(metadata=("n", "f", "bad", "l", "d", "absent")))
    assert item.metadata == {"n": 1, "f": 0.5, "bad": None, "l": [True, None], "d": {"k": "v"}, "absent": None}


@pytest.mark.parametrize("name", ["caption", "captions", "width", "original_height"])
def test_names_that_the_json_member_uses_itself(name):
    with pytest.raises(SpecError, match="uses that name"):
        Columns(metadata=("url", name))


@pytest.mark.parametrize(
    ("name", "text", "error", "problem"),
    [
        ("t.csv", "image,caption\ncat/1.png,x\n,y\n", SpecError, r"t\.csv:3: no image in column 'image'"),
        ("t.csv", "image,caption\ncat/1.png, \n", SpecError, r"t\.csv:2: no caption"),
        ("t.csv", "image,text\ncat/1.png,x\n", SpecError, r"t\.csv:1: no column 'caption'; there are 'image', 'text'"),
        ("t.csv", "path,caption\ncat/1.png,x\n", SpecError, "no column 'image'"),
        ("t.csv", "image,caption\ncat/1.png,x,extra\n", SpecError, r"t\.csv:2: .*another number of cells"),
        ("t.csv", "image,caption\ncat/1.png\n", SpecError, "another number of cells"),
        ("t.csv", 'image,caption\ncat/1.png,"x" y\n', SpecError, r"t\.csv:2"),
        ("t.csv", 'image,caption\ncat/1.png,"x\n', SpecError, r"t\.csv:2: unexpected end of data"),
        ("t.csv", "image,caption,cls\ncat/1.png,x,dog\n", SpecError, r"t\.csv:2: cls 'dog' is not a class number"),
        ("t.csv", "image,caption,cls\ncat/1.png,x,-1\n", SpecError, "'-1' is not a class number"),
        ("t.csv", "image,caption\nt.csv,x\n", SpecError, r"t\.csv:2: t\.csv is not one of jpg"),
        ("t.csv", "image,caption\nhttps://x.org/a.jpg,x\n", SpecError, r"t\.csv:2: .* is a URL"),
        ("t.csv", "image,caption\n../a.jpg,x\n", SpecError, r"t\.csv:2: \.\./a\.jpg leads out of"),
        ("t.csv", "image,caption\nb/../../a.jpg,x\n", SpecError, "leads out of"),
        ("t.csv", "image,caption\n", MissingError, "has no rows"),
        ("t.csv", "", MissingError, "has no rows"),
        ("t.jsonl", '{"image": "cat/1.png"\n', SpecError, r"t\.jsonl:1: not JSON"),
        ("t.jsonl", "[" * 100_000, SpecError, r"t\.jsonl:1: not JSON"),
        ("t.jsonl", "\n[1]\n", SpecError, r"t\.jsonl:2: not a JSON object"),
        ("t.jsonl", '{"image": "cat/1.png", "caption": [1]}\n', SpecError, "no caption"),
        ("t.jsonl", '{"image": "a\\u0000.png", "caption": "x"}\n', SpecError, "is not one of jpg"),
        ("t.jsonl", '{"image": 3, "caption": "x"}\n', SpecError, "no image in column 'image'"),
        ("t.xlsx", "", SpecError, "unknown kind of table"),
    ],
)
def test_bad_tables_name_the_line(tmp_path, name, text, error, problem):
    with pytest.raises(error, match=problem):
        items(table(tmp_path, name, text))


def test_missing_metadata_columns_are_named(tmp_path):
    path = table(tmp_path, "t.csv", "image,caption\na.png,x\n")
    with pytest.raises(SpecError) as caught:
        items(path, Columns(metadata=("url",)))
    assert "--keep-metadata" in caught.value.hint


def test_a_path_may_wander_inside_the_root(tmp_path):
    path = table(tmp_path, "t.csv", "image,caption\nb/../a.jpg,x\n..a.jpg,y\n")
    assert [item.image for item in items(path)] == [f"{tmp_path}/b/../a.jpg", f"{tmp_path}/..a.jpg"]


def test_bad_rows_can_be_left_to_the_packing(tmp_path):
    text = "image,caption,cls\na.png,x,0\n,y,\nb.png,,\nc.png,z,q\nd.png,w,1\n"
    found = TextTable(table(tmp_path, "t.csv", text), Columns(), strict=False)
    assert len(found) == 5
    assert (found[0].captions, found[4].captions) == (("x",), ("w",))
    reasons = []
    for number in (1, 2, 3):
        with pytest.raises(Unpackable) as caught:
            found[number]
        reasons.append((caught.value.reason, caught.value.where))
    path = tmp_path / "t.csv"
    assert reasons == [("no image", f"{path}:3"), ("no caption", f"{path}:4"), ("no class number", f"{path}:5")]


def test_class_names_are_collected(tmp_path):
    text = "image,caption,cls,class_name\na.png,x,1,dog\nb.png,x,0,cat\nc.png,x,1,dog\n"
    assert TextTable(table(tmp_path, "t.csv", text), Columns()).classes == ("cat", "dog")
    bad = text.replace("0,cat", "1,cat")
    with pytest.raises(SpecError, match="two names"):
        TextTable(table(tmp_path, "u.csv", bad), Columns())
    with pytest.raises(SpecError, match="without a gap"):
        TextTable(table(tmp_path, "v.csv", text.replace("0,cat", "5,cat")), Columns())


def test_the_identity_is_content_and_meaning(tmp_path):
    text = "image,caption,alt\na.png,x,y\n"
    one = TextTable(table(tmp_path, "a.csv", text), Columns()).identity
    assert TextTable(table(tmp_path, "b.csv", text), Columns()).identity == one
    others = {
        TextTable(table(tmp_path, "c.csv", text + "\n"), Columns()).identity,
        TextTable(tmp_path / "a.csv", Columns(captions=("alt",))).identity,
        TextTable(tmp_path / "a.csv", Columns(root=tmp_path / "x")).identity,
        TextTable(tmp_path / "a.csv", Columns(), separator=",").identity,
    }
    assert len(others | {one}) == 5


def test_the_table_that_was_checked_is_the_one_that_is_read(tmp_path):
    path = table(tmp_path, "t.csv", "image,caption\na.png,first\n")
    found = TextTable(path, Columns())
    path.unlink()
    table(tmp_path, "t.csv", "image,caption\nb.png,other\n")
    assert found[0].captions == ("first",)


def test_a_row_takes_a_few_bytes_of_memory(tmp_path):
    path = table(tmp_path, "t.csv", "image,caption\n" + "".join(f"{n}.png,caption {n}\n" for n in range(20_000)))
    tracemalloc.start()
    found = TextTable(path, Columns())
    ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/pack_table.py")])
    tracemalloc.stop()
    kept = sum(trace.size for trace in ours.traces)
    assert len(found) == 20_000
    assert kept < 20_000 * 24
    assert found[19_999].captions == ("caption 19999",)


def test_tables_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(MissingError, match="does not exist"):
        items(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"image,caption\ncat/1.png,caf\xe9\n")
    with pytest.raises(SpecError, match=r"not UTF-8 text \(line 2\)"):
        items(tmp_path / "latin.csv")

    def fail(error):
        def refuse(*args, **options):
            raise error

        monkeypatch.setattr("os.open", refuse)

    fail(PermissionError(13, "Permission denied"))
    with pytest.raises(PermissionDeniedError):
        items(tmp_path / "latin.csv")
    fail(OSError(5, "Input/output error"))
    with pytest.raises(UnavailableError, match="Input/output error"):
        items(tmp_path / "latin.csv")


def test_progress_through_a_long_table(tmp_path):
    path = table(tmp_path, "t.csv", "image,caption\n" + "a.png,a caption of some length\n" * 50_000)
    events = []
    TextTable(path, Columns(), progress=events.append)
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert len(events) == 5
    assert events[-1].total == path.stat().st_size >> 20 == 1
    assert (events[-1].stage, events[-1].item) == ("table", "t.csv")

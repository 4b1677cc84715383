"""Packing: the same shards from the same input, and errors that name the line."""

import json
import subprocess
import sys

import pytest

from clip_testkit.shards import png
from clip_trainer.data.index import open_dataset
from clip_trainer.data.pack import pack, read_class_names
from clip_trainer.data.pack_plan import PackItem, plan_class_folders, plan_manifest
from clip_trainer.data.samples import ReadHints
from clip_trainer.data.verify import verify_dataset
from clipctl.contract.errors import (
    CannotCreateError,
    MissingError,
    PermissionDeniedError,
    SpecError,
)


@pytest.fixture
def pictures(tmp_path):
    for number in range(7):
        folder = tmp_path / "pictures" / ("cat" if number % 2 else "big_dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    return tmp_path / "pictures"


def table(pictures, name, text):
    (pictures / name).write_text(text, encoding="utf-8")
    return str(pictures / name)


def samples(directory):
    dataset = open_dataset(str(directory), build=False)
    reader = dataset.open_reader(ReadHints())
    return [reader.read(s, i) for s, count in enumerate(dataset.index.counts) for i in range(count)]


def test_class_folders_become_shards(pictures, tmp_path):
    items = plan_class_folders(pictures, templates=["a photo of a {}.", "{}"])
    events = []
    summary = pack(items, str(tmp_path / "out"), samples_per_shard=3, progress=events.append)
    assert (summary.shards, summary.samples, summary.classes) == (3, 7, ("big_dog", "cat"))
    assert summary.index_digest == open_dataset(str(tmp_path / "out")).index.digest
    assert summary.bytes == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert [event.done for event in events] == [3, 6, 7]
    assert read_class_names(tmp_path / "out") == ("big_dog", "cat")
    found = {sample.image(): (sample.captions(), sample.class_number()) for sample in samples(tmp_path / "out")}
    dog, cat = ("a photo of a big dog.", "big dog"), ("a photo of a cat.", "cat")
    assert found == {png(n): ((cat, 1) if n % 2 else (dog, 0)) for n in range(7)}
    assert verify_dataset(str(tmp_path / "out"), deep=True).ok


def test_packing_is_reproducible_and_shuffled_by_seed(pictures, tmp_path):
    items = plan_class_folders(pictures, templates=["{}"])
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        pack(items, str(tmp_path / name), seed=seed)
    read = {name: (tmp_path / name / "shard-000000.tar").read_bytes() for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
    assert [s.key for s in samples(tmp_path / "a")] == [f"{n:09d}" for n in range(7)]
    order = [s.image() for s in samples(tmp_path / "a")]
    assert order != [png(n) for n in range(7)]
    assert sorted(order) == sorted(png(n) for n in range(7))


def test_tables(pictures):
    expected = (
        PackItem(pictures / "cat/1.png", ("a cat, sitting",), 3, "cat"),
        PackItem(pictures / "big_dog/0.png", ('a "dog"',)),
    )
    csv = 'image,caption,cls,class_name\ncat/1.png,"a cat, sitting",3,cat\nbig_dog/0.png,"a ""dog""",,\n'
    tsv = 'image\tcaption\tcls\tclass_name\ncat/1.png\ta cat, sitting\t3\tcat\nbig_dog/0.png\t"a ""dog"""\t\t\n'
    lines = [
        {"image": "cat/1.png", "caption": "a cat, sitting", "cls": 3, "class_name": "cat"},
        {"image": "big_dog/0.png", "caption": ['a "dog"']},
    ]
    jsonl = "\n".join(json.dumps(line) for line in lines) + "\n\n"
    assert plan_manifest(table(pictures, "t.csv", csv)) == expected
    assert plan_manifest(table(pictures, "t.tsv", "\ufeff" + tsv)) == expected
    assert plan_manifest(table(pictures, "t.jsonl", jsonl)) == expected


def test_columns_split_and_root_can_be_named(pictures, tmp_path):
    text = "file,en,de,part\ncat/1.png,cat,Katze,train\ncat/3.png,cat,Katze,val\n"
    (tmp_path / "t.csv").write_text(text)
    options = {"image_column": "file", "caption_columns": ("en", "de"), "split_column": "part", "root": pictures}
    (item,) = plan_manifest(tmp_path / "t.csv", split="val", **options)
    assert item == PackItem(pictures / "cat/3.png", ("cat", "Katze"))
    assert len(plan_manifest(tmp_path / "t.csv", **options)) == 2
    with pytest.raises(MissingError, match="no rows with part = 'test'"):
        plan_manifest(tmp_path / "t.csv", split="test", **options)


@pytest.mark.parametrize(
    ("name", "text", "error", "problem"),
    [
        ("t.csv", "image,caption\ncat/99.png,x\n", MissingError, r"t\.csv:2: the image .*99\.png does not exist"),
        ("t.csv", "image,caption\ncat/1.png,x\n,y\n", SpecError, r"t\.csv:3: no image in column 'image'"),
        ("t.csv", "image,caption\ncat/1.png, \n", SpecError, r"t\.csv:2: no caption"),
        ("t.csv", "image,text\ncat/1.png,x\n", SpecError, "no column 'caption'"),
        ("t.csv", "path,caption\ncat/1.png,x\n", SpecError, "no image in column 'image'"),
        ("t.csv", "image,caption\ncat/1.png,x,extra\n", SpecError, "another number of cells"),
        ("t.csv", "image,caption\ncat/1.png\n", SpecError, "another number of cells"),
        ("t.csv", 'image,caption\ncat/1.png,"x" y\n', SpecError, r"t\.csv:2"),
        ("t.csv", "image,caption,cls\ncat/1.png,x,dog\n", SpecError, "'dog' is not a class number"),
        ("t.csv", "image,caption\nt.csv,x\n", SpecError, "is not one of jpg"),
        ("t.csv", "image,caption\n", MissingError, "has no rows"),
        ("t.csv", "", MissingError, "has no rows"),
        ("t.jsonl", '{"image": "cat/1.png"\n', SpecError, r"t\.jsonl:1: not JSON"),
        ("t.jsonl", "\n[1]\n", SpecError, r"t\.jsonl:2: not a JSON object"),
        ("t.jsonl", '{"image": "cat/1.png", "caption": [1]}\n', SpecError, "no caption"),
        ("t.parquet", "", SpecError, "unknown kind of table"),
    ],
)
def test_bad_tables_name_the_line(pictures, name, text, error, problem):
    with pytest.raises(error, match=problem):
        plan_manifest(table(pictures, name, text))


def test_tables_that_cannot_be_read(pictures, monkeypatch):
    with pytest.raises(MissingError, match="does not exist"):
        plan_manifest(pictures / "none.csv")
    (pictures / "latin.csv").write_bytes(b"image,caption\ncat/1.png,caf\xe9\n")
    with pytest.raises(SpecError, match="not UTF-8"):
        plan_manifest(pictures / "latin.csv")

    def refuse(*args, **options):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.open", refuse)
    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(PermissionDeniedError):
        plan_manifest(pictures / "latin.csv")
    with pytest.raises(PermissionDeniedError):
        plan_class_folders(pictures, templates=["{}"])


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} and {}"], ["{}", "x"]])
def test_bad_templates(pictures, templates):
    with pytest.raises(SpecError, match="needs one"):
        plan_class_folders(pictures, templates=templates)


def test_bad_class_folders(pictures, tmp_path):
    with pytest.raises(MissingError, match="not a directory"):
        plan_class_folders(tmp_path / "none", templates=["{}"])
    with pytest.raises(MissingError, match="no class folders"):
        plan_class_folders(pictures / "cat", templates=["{}"])
    (pictures / "empty").mkdir()
    with pytest.raises(MissingError, match="empty holds no images"):
        plan_class_folders(pictures, templates=["{}"])


def test_existing_shards_are_never_overwritten(pictures, tmp_path):
    items = plan_class_folders(pictures, templates=["{}"])
    pack(items, str(tmp_path / "out"))
    with pytest.raises(CannotCreateError, match="holds 1 shards already"):
        pack(items, str(tmp_path / "out"))


@pytest.mark.parametrize(("out", "size"), [("o.tar", 10), ("o-{0..3}.tar", 10), ("o", 0)])
def test_bad_outputs(pictures, out, size, tmp_path):
    items = plan_class_folders(pictures, templates=["{}"])
    with pytest.raises(SpecError):
        pack(items, str(tmp_path / out), samples_per_shard=size)


def test_nothing_to_pack(tmp_path):
    with pytest.raises(MissingError, match="nothing to pack"):
        pack([], str(tmp_path / "out"))


def test_images_that_vanish_or_refuse(pictures, tmp_path, monkeypatch):
    item = PackItem(pictures / "none.png", ("x",))
    with pytest.raises(MissingError, match=r"none\.png"):
        pack([item], str(tmp_path / "out"))

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(PermissionDeniedError, match="Permission denied"):
        pack([item], str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("classes", "problem"),
    [([(0, "a"), (0, "b")], "two names"), ([(0, "a"), (2, "c")], "without a gap"), ([(1, "a")], "without a gap")],
)
def test_classes_must_agree(pictures, tmp_path, classes, problem):
    items = [PackItem(pictures / "cat/1.png", ("x",), number, name) for number, name in classes]
    with pytest.raises(SpecError, match=problem):
        pack(items, str(tmp_path / "out"))


def test_without_class_names_there_is_no_class_file(pictures, tmp_path):
    summary = pack([PackItem(pictures / "cat/1.png", ("x",), 5)], str(tmp_path / "out"))
    assert summary.classes == ()
    with pytest.raises(MissingError):
        read_class_names(tmp_path / "out")


def test_what_the_command_line_uses_imports_neither_torch_nor_numpy():
    modules = ("index", "verify", "pack", "pack_plan", "source_remote", "location")
    script = "import sys\n" + "".join(f"import clip_trainer.data.{name}\n" for name in modules)
    script += "print(sorted({'torch', 'numpy', 'webdataset', 'fsspec', 's3fs'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

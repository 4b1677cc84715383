"""Folders of images: classes by their names, captions from the files beside the images."""

import json
import os
from pathlib import Path

import pytest

from clip_testkit.shards import png
from clip_trainer.data.pack.columns import Columns
from clip_trainer.data.pack.folder import CaptionedFolder, ClassFolders, has_sidecars, walk_images
from clip_trainer.data.pack.input import open_input
from clip_trainer.data.pack.item import ListedItems, PackItem
from clip_trainer.data.pack.table import TextTable
from clip_trainer.data.writing.shard_producer import Unpackable
from clipctl.contract.errors import MissingError, PermissionDeniedError, SpecError


def put(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def classes(tmp_path):
    for name in ("cat/2.png", "cat/1.JPG", "cat/deep/er/3.webp", "big_dog/0.jpeg", "big_dog/notes.md", ".git/x.png"):
        put(tmp_path / "classes" / name)
    return tmp_path / "classes"


@pytest.fixture
def captioned(tmp_path):
    root = tmp_path / "captioned"
    for name in ("a.jpg", "b.png", "sub/c.jpg", "sub/d.jpg"):
        put(root / name)
    put(root / "a.txt", "\ufeff a cat \n")
    put(root / "b.json", json.dumps({"caption": "a dog", "url": "http://x", "cls": 2}))
    put(root / "sub/c.txt", "one")
    put(root / "sub/c.json", json.dumps({"captions": ["first", "second"], "url": "http://y"}))
    return root


def every(source):
    return [source[number] for number in range(len(source))]


def test_class_folders(classes):
    found = ClassFolders(classes, templates=["a photo of a {}.", "{}"])
    assert found.classes == ("big_dog", "cat")
    assert [(os.path.relpath(i.image, classes), i.cls, i.class_name, i.captions[0]) for i in every(found)] == [
        ("big_dog/0.jpeg", 0, "big_dog", "a photo of a big dog."),
        ("cat/1.JPG", 1, "cat", "a photo of a cat."),
        ("cat/2.png", 1, "cat", "a photo of a cat."),
        ("cat/deep/er/3.webp", 1, "cat", "a photo of a cat."),
    ]
    assert found[0].captions == ("a photo of a big dog.", "big dog")
    assert found[0].where == str(classes / "big_dog/0.jpeg")


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} and {}"], ["{}", "x"]])
def test_bad_templates(classes, templates):
    with pytest.raises(SpecError, match="needs one"):
        ClassFolders(classes, templates=templates)


def test_bad_class_folders(classes, tmp_path):
    with pytest.raises(MissingError, match="not a directory"):
        ClassFolders(tmp_path / "none", templates=["{}"])
    with pytest.raises(MissingError, match="no class folders"):
        ClassFolders(classes / "cat/deep/er", templates=["{}"])
    (classes / "empty").mkdir()
    with pytest.raises(MissingError, match="empty holds no images"):
        ClassFolders(classes, templates=["{}"])


def test_folders_that_may_not_be_read(classes, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(PermissionDeniedError):
        ClassFolders(classes, templates=["{}"])


def test_captions_beside_images(captioned):
    found = CaptionedFolder(captioned, Columns(metadata=("url",)))
    assert found.classes == ()
    assert [found[n].captions for n in range(3)] == [("a cat",), ("a dog",), ("first", "second")]
    assert [found[n].metadata for n in range(3)] == [{"url": None}, {"url": "http://x"}, {"url": "http://y"}]
    assert [found[n].image for n in range(3)] == [str(captioned / n) for n in ("a.jpg", "b.png", "sub/c.jpg")]
    assert (found[1].cls, found[1].where) == (2, str(captioned / "b.png"))
    with pytest.raises(Unpackable) as caught:
        found[3]
    assert (caught.value.reason, caught.value.where) == ("no caption", str(captioned / "sub/d.jpg"))


def test_other_caption_fields(captioned):
    put(captioned / "b.json", json.dumps({"title": "a title", "alt": ["one", "two"]}))
    found = CaptionedFolder(captioned, Columns(captions=("title", "alt")))
    assert found[1].captions == ("a title", "one", "two")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("b.json", b"{", "damaged caption file"),
        ("b.json", b"[1]", "damaged caption file"),
        ("b.json", b"[" * 100_000, "damaged caption file"),
        ("b.json", b"\xff", "damaged caption file"),
        ("b.json", b'{"caption": 3}', "no caption"),
        ("a.txt", b"\xff\xfe", "damaged caption file"),
        ("a.txt", b" \n", "no caption"),
    ],
)
def test_bad_caption_files(captioned, name, content, reason):
    put(captioned / name, content)
    with pytest.raises(Unpackable) as caught:
        every(CaptionedFolder(captioned, Columns()))
    assert caught.value.reason == reason
    assert str(captioned / name[0]) in caught.value.where


def test_a_caption_file_that_is_a_folder(captioned):
    (captioned / "sub/d.txt").mkdir()
    with pytest.raises(Unpackable) as caught:
        CaptionedFolder(captioned, Columns())[3]
    assert caught.value.reason == "unreadable caption file"


def test_a_folder_without_images(tmp_path):
    with pytest.raises(MissingError, match="holds no images"):
        CaptionedFolder(tmp_path, Columns())


def test_links_are_followed_but_never_in_circles(captioned, tmp_path):
    put(tmp_path / "elsewhere/e.jpg")
    (captioned / "linked").symlink_to(tmp_path / "elsewhere")
    (captioned / "sub/up").symlink_to(captioned)
    (captioned / "gone.jpg").symlink_to(tmp_path / "nothing")
    names = [path.relative_to(captioned).as_posix() for path in walk_images(captioned)]
    assert names == ["a.jpg", "b.png", "linked/e.jpg", "sub/c.jpg", "sub/d.jpg"]


def test_names_that_are_not_utf8(tmp_path):
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", os.O_CREAT | os.O_WRONLY))
    found = CaptionedFolder(tmp_path, Columns())
    with pytest.raises(Unpackable, match="no caption"):
        found[0]
    assert len(found.identity.split("-")) == 2


def test_the_identity_depends_on_paths_and_meaning(captioned, classes):
    first = CaptionedFolder(captioned, Columns()).identity
    assert CaptionedFolder(captioned, Columns()).identity == first
    assert CaptionedFolder(captioned, Columns(captions=("title",))).identity != first
    put(captioned / "new.jpg")
    assert CaptionedFolder(captioned, Columns()).identity != first
    by_class = ClassFolders(classes, templates=["{}"]).identity
    assert ClassFolders(classes, templates=["a {}"]).identity != by_class
    (classes / "cat").rename(classes / "dog")
    assert ClassFolders(classes, templates=["{}"]).identity != by_class


def test_which_kind_of_input_a_path_is(captioned, classes, tmp_path):
    assert has_sidecars(captioned)
    assert not has_sidecars(classes)
    assert isinstance(open_input(captioned), CaptionedFolder)
    assert isinstance(open_input(classes), ClassFolders)
    (captioned / "a.jpg").rename(captioned / "sub/a.jpg")
    (captioned / "b.png").unlink()
    assert isinstance(open_input(captioned, templates=["{}"]), ClassFolders)
    put(tmp_path / "t.csv", "image,caption\na.jpg,x\n")
    assert isinstance(open_input(str(tmp_path / "t.csv")), TextTable)
    assert open_input(classes)[0].captions == ("a photo of a big dog.",)


@pytest.mark.parametrize(
    ("kind", "columns", "options", "named"),
    [
        ("table", Columns(), {"templates": ["{}"]}, "--template"),
        ("captioned", Columns(split="train"), {}, "--split"),
        ("captioned", Columns(root=Path("/")), {}, "--root"),
        ("captioned", Columns(), {"separator": ";"}, "--separator"),
        ("classes", Columns(metadata=("url",)), {}, "--keep-metadata"),
        ("classes", Columns(split="train"), {}, "--split"),
    ],
)
def test_options_that_mean_nothing_are_refused(captioned, classes, tmp_path, kind, columns, options, named):
    table = put(tmp_path / "t.csv", "image,caption\na.jpg,x\n")
    path = {"table": table, "captioned": captioned, "classes": classes}[kind]
    with pytest.raises(SpecError, match=f"{named} means nothing for {path}"):
        open_input(path, columns, **options)


def test_listed_items():
    listed = ListedItems([PackItem("a.png", ("x",), 1, "b"), PackItem(png(1), ("y",), 0, "a")])
    assert (len(listed), listed.classes, listed[1].image) == (2, ("a", "b"), png(1))
    assert listed.identity == ListedItems(every(listed)).identity
    assert listed.identity != ListedItems(every(listed)[:1] * 2 + every(listed)[1:]).identity
    with pytest.raises(SpecError, match="two names"):
        ListedItems([PackItem("a.png", ("x",), 1, "b"), PackItem("a.png", ("x",), 1, "c")])

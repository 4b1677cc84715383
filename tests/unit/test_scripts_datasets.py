"""The scripts that make the real data of quickstart and the second example."""

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from clip_trainer.data.pack.columns import Columns
from clip_trainer.data.pack.input import open_input

SCRIPTS = Path(__file__).parents[2] / "scripts"


def load(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits")
    done = subprocess.run([sys.executable, SCRIPTS / "make_digits.py", out], capture_output=True, text=True, check=True)
    assert "1437 training and 360 held-out pictures" in done.stdout
    return out


def test_digits_are_all_there_and_split_evenly(digits):
    found = rows(digits)
    assert len(found) == 1797
    assert Counter((row["split"], row["cls"]) for row in found if row["split"] == "test") == {
        ("test", digit): 36 for digit in range(10)
    }
    assert {row["class_name"] for row in found if row["cls"] == 7} == {"seven"}
    assert found[7]["caption"][0].startswith("a photo of the digit ")
    assert len({len(row["caption"]) for row in found}) == 1


def test_digits_are_ready_for_packing(digits):
    items = open_input(digits / "manifest.jsonl", Columns(split="test"))
    assert len(items) == 360
    assert {items[number].cls for number in range(360)} == set(range(10))
    with Image.open(items[0].image) as picture:
        assert (picture.size, picture.mode, picture.format) == ((32, 32), "RGB", "PNG")
        low, high = picture.convert("L").getextrema()
    assert low < 30
    assert high > 200


def entry(name, image, *, short=("s",), has=True, skins=None):
    made = {"name": name, "short_names": list(short), "image": image, "subcategory": "person-role"}
    return {**made, "has_img_google": has, "skin_variations": skins or {}}


TABLE = [
    entry("GRINNING FACE", "1f600.png", short=("grinning", "big_grin")),
    entry("NOT DRAWN", "0000.png", has=False),
    entry(
        "TEACHER",
        "1f9d1.png",
        skins={
            "1F3FB": {"image": "1f9d1-1f3fb.png", "has_img_google": True},
            "1F3FB-1F3FF": {"image": "1f9d1-1f3fb-1f3ff.png", "has_img_google": True},
            "1F3FF": {"image": "none.png", "has_img_google": False},
        },
    ),
    entry("Grinning_Face", "other.png"),
]


def archive(path):
    picture = io.BytesIO()
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(picture, "PNG")
    files = {"package/emoji.json": json.dumps(TABLE).encode(), "package/../../evil.png": b"x"}
    for item in TABLE:
        files[f"package/img/google/64/{item['image']}"] = picture.getvalue()
        for variation in item["skin_variations"].values():
            files[f"package/img/google/64/{variation['image']}"] = picture.getvalue()
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


@pytest.fixture
def emoji(tmp_path, monkeypatch):
    module = load("make_emoji")
    monkeypatch.setattr(module, "fetch", lambda out: archive(out / "package.tgz"))
    monkeypatch.setattr(sys, "argv", ["make_emoji", str(tmp_path / "out")])
    return module


def test_emoji_become_pairs(emoji, tmp_path, capsys):
    emoji.main()
    found = {row["image"]: row["caption"] for row in rows(tmp_path / "out")}
    assert found == {
        "images/1f600.png": [
            "grinning face",
            "an emoji of grinning",
            "an emoji of big grin",
            "a picture of grinning face, from the group person role",
        ],
        "images/1f9d1.png": ["teacher", "an emoji of s", "a picture of teacher, from the group person role"],
        "images/1f9d1-1f3fb.png": [
            "teacher, light skin tone",
            "an emoji of s, light skin tone",
            "a picture of teacher, light skin tone, from the group person role",
        ],
        "images/1f9d1-1f3fb-1f3ff.png": [
            "teacher, light skin tone and dark skin tone",
            "an emoji of s, light skin tone and dark skin tone",
            "a picture of teacher, light skin tone and dark skin tone, from the group person role",
        ],
    }
    printed = capsys.readouterr().out
    assert "Apache License 2.0" in printed
    assert "MIT License" in printed
    assert len(open_input(tmp_path / "out" / "manifest.jsonl")) == 4


def test_transparent_emoji_stand_on_white(emoji, tmp_path):
    emoji.main()
    with Image.open(tmp_path / "out" / "images" / "1f600.png") as picture:
        assert picture.mode == "RGB"
        assert picture.getpixel((5, 5)) == (255, 255, 255)
    assert not (tmp_path / "evil.png").exists()


def test_a_damaged_package_is_deleted_and_said(tmp_path):
    module = load("make_emoji")
    damaged = tmp_path / f"{module.PACKAGE}-{module.VERSION}.tgz"
    damaged.write_bytes(b"not the package")
    with pytest.raises(SystemExit, match="damaged"):
        module.fetch(tmp_path)
    assert not damaged.exists()


def test_without_npm_the_remedy_is_named(tmp_path, monkeypatch):
    module = load("make_emoji")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="apt-get install npm"):
        module.fetch(tmp_path)


def test_a_failing_npm_is_reported(tmp_path, monkeypatch):
    module = load("make_emoji")
    monkeypatch.setattr(module.shutil, "which", lambda name: sys.executable)
    with pytest.raises(SystemExit, match="could not fetch"):
        module.fetch(tmp_path)


def test_about_a_tenth_is_held_out():
    module = load("make_emoji")
    splits = Counter(module.row_of(module.Emoji(f"{n:x}.png", "n", ("s",), "g", ""))["split"] for n in range(3000))
    assert 250 < splits["val"] < 350

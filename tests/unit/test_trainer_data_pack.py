"""Packing: the same shards from the same input, whatever the workers, and what is in them."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clip_testkit.shards import png, read_shards
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.index.verify import verify_dataset
from clip_trainer.data.pack.columns import Columns
from clip_trainer.data.pack.folder import ClassFolders
from clip_trainer.data.pack.input import open_input
from clip_trainer.data.pack.item import ListedItems, PackItem
from clip_trainer.data.pack.pack import pack, read_class_names
from clip_trainer.data.writing.image_resize import Resize
from clip_trainer.data.writing.shard_writer import WriteOptions
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError, PermissionDeniedError, SpecError


@pytest.fixture
def pictures(tmp_path):
    for number in range(7):
        folder = tmp_path / "pictures" / ("cat" if number % 2 else "big_dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    return tmp_path / "pictures"


@pytest.fixture
def folders(pictures):
    return ClassFolders(pictures, templates=["{}"])


def listed(*images):
    """Items of images, given by path or by content."""
    paths = [image if isinstance(image, bytes) else str(image) for image in images]
    return ListedItems([PackItem(image, (f"caption {n}",)) for n, image in enumerate(paths)])


def written(directory):
    """Name and content of everything, the index and the record too."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_class_folders_become_shards(pictures, tmp_path):
    items = ClassFolders(pictures, templates=["a photo of a {}.", "{}"])
    events = []
    out = tmp_path / "out"
    summary = pack(items, str(out), WriteOptions(samples_per_shard=3), progress=events.append)
    assert (summary.shards, summary.samples, summary.classes) == (3, 7, ("big_dog", "cat"))
    assert (summary.skipped, summary.resumed, summary.complete) == ({}, 0, False)
    assert summary.identity == open_dataset(str(out)).index.identity
    assert summary.bytes == sum(path.stat().st_size for path in out.glob("*.tar"))
    packing = [event for event in events if event.stage == "pack"]
    assert [(event.done, event.total) for event in packing] == [(7, 7)]
    assert read_class_names(out) == ("big_dog", "cat")
    dog, cat = b"a photo of a big dog.", b"a photo of a cat."
    found = {members["png"]: (members["txt"], members["cls"]) for _, members in read_shards(out)}
    assert found == {png(n): ((cat, b"1") if n % 2 else (dog, b"0")) for n in range(7)}
    captions = {members["json"] for _, members in read_shards(out)}
    assert captions == {
        b'{"captions": ["a photo of a cat.", "cat"]}',
        b'{"captions": ["a photo of a big dog.", "big dog"]}',
    }
    assert verify_dataset(str(out), deep=True).ok


def test_packing_is_reproducible_and_shuffled_by_seed(folders, tmp_path):
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        pack(folders, str(tmp_path / name), seed=seed)
    assert written(tmp_path / "a") == written(tmp_path / "b")
    a, c = read_shards(tmp_path / "a"), read_shards(tmp_path / "c")
    assert [key for key, _ in a] == [f"{n:09d}" for n in range(7)]
    images = [members["png"] for _, members in a]
    assert images != [members["png"] for _, members in c]
    assert images != [png(n) for n in range(7)]
    assert sorted(images) == sorted(png(n) for n in range(7))


def test_the_bytes_never_change(tmp_path):
    """Packing again must give the shards that were packed before: these are of the first release."""
    import hashlib

    items = ListedItems([PackItem(png(n), (f"caption {n}", "other")[: 1 + n % 2], n % 3) for n in range(20)])
    pack(items, str(tmp_path / "out"), WriteOptions(samples_per_shard=8))
    digest = hashlib.sha256()
    for path in sorted((tmp_path / "out").glob("*.tar")):
        digest.update(path.read_bytes())
    names = [member.split(".")[1] for member in tar_names(tmp_path / "out/shard-000000.tar")]
    assert set(names) == {"png", "txt", "json", "cls"}
    assert digest.hexdigest() == rebuilt_by_tarfile(items)


def tar_names(path):
    import tarfile

    with tarfile.open(path) as tar:
        return tar.getnames()


def rebuilt_by_tarfile(items):
    """The shards of `test_the_bytes_never_change`, written the obvious way with Python's own writer."""
    import hashlib
    import tarfile

    from xxhash import xxh3_64_intdigest

    order = sorted(range(20), key=lambda n: xxh3_64_intdigest(f"0:{n}".encode()))
    digest = hashlib.sha256()
    for first in range(0, 20, 8):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for position in range(first, min(first + 8, 20)):
                item = items[order[position]]
                members = [("png", item.image), ("txt", item.captions[0].encode())]
                if len(item.captions) > 1:
                    members.append(("json", json.dumps({"captions": list(item.captions)}).encode()))
                for suffix, data in [*members, ("cls", str(item.cls).encode())]:
                    header = tarfile.TarInfo(f"{position:09d}.{suffix}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
        digest.update(buffer.getvalue())
    return digest.hexdigest()


@pytest.mark.parametrize("options", [WriteOptions(samples_per_shard=7), WriteOptions(shard_bytes=20_480)])
def test_the_number_of_workers_changes_nothing(tmp_path, options):
    images = [encoded(Image.effect_noise((40 + n % 30, 40), 90), "PNG" if n % 2 else "JPEG") for n in range(90)]
    images[13], images[40] = b"no image", images[40][:200]
    results = []
    for workers in (1, 2, 5):
        chosen = replace(options, workers=workers, skip_errors=True)
        pack(listed(*images), str(tmp_path / str(workers)), chosen, resize=Resize(30))
        results.append(written(tmp_path / str(workers)))
    assert results[0] == results[1] == results[2]
    assert sum(name.endswith(".tar") for name in results[0]) > 3


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_images_are_made_smaller_and_small_ones_kept(tmp_path):
    large = encoded(Image.new("RGB", (64, 40), (200, 10, 10)), "PNG")
    small = encoded(Image.new("RGB", (20, 40)), "WEBP")
    tiff = encoded(Image.new("RGB", (10, 12)), "TIFF")
    pack(listed(large, small, tiff), str(tmp_path / "out"), resize=Resize(20))
    by_caption = {members["txt"]: members for _, members in read_shards(tmp_path / "out")}
    first, second, third = (by_caption[b"caption %d" % n] for n in range(3))
    with Image.open(io.BytesIO(first["jpg"])) as image:
        assert (image.format, image.size) == ("JPEG", (32, 20))
    assert second["webp"] == small
    assert third["jpg"][:2] == b"\xff\xd8", "a kind that shards do not hold is written as JPEG"
    assert json.loads(first["json"]) == {"width": 32, "height": 20, "original_width": 64, "original_height": 40}
    assert json.loads(second["json"]) == {"width": 20, "height": 40, "original_width": 20, "original_height": 40}


def test_columns_are_kept_with_the_sizes(pictures, tmp_path):
    rows = [{"image": f"cat/{n}.png", "caption": ["a", "b"][: 1 + n // 3], "url": f"http://x/{n}"} for n in (1, 3)]
    (pictures / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(open_input(pictures / "t.jsonl", Columns(metadata=("url",))), str(tmp_path / "out"))
    size = {"width": 8, "height": 8, "original_width": 8, "original_height": 8}
    found = {members["png"]: json.loads(members["json"]) for _, members in read_shards(tmp_path / "out")}
    assert found == {
        png(1): {"url": "http://x/1", **size},
        png(3): {"url": "http://x/3", "captions": ["a", "b"], **size},
    }


def test_a_name_of_another_kind_does_not_matter(tmp_path):
    """Training looks at the bytes; so a JPEG called .png keeps its name, and a GIF called .jpg too."""
    image = Image.new("RGB", (4, 4))
    for name, form in (("a.png", "JPEG"), ("b.jpg", "GIF")):
        (tmp_path / name).write_bytes(encoded(image, form))
    pack(listed(tmp_path / "a.png", tmp_path / "b.jpg"), str(tmp_path / "out"))
    assert {suffix for _, members in read_shards(tmp_path / "out") for suffix in members} == {"png", "jpg", "txt"}
    with pytest.raises(CorruptError, match="gif image") as caught:
        pack(listed(encoded(image, "GIF")), str(tmp_path / "other"))
    assert "--resize" in caught.value.hint


def bad_images(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "html.jpg").write_text("<html>not found</html>")
    (tmp_path / "folder.png").mkdir()
    return {
        "missing image": [tmp_path / "none.png", tmp_path / "folder.png", tmp_path / "html.jpg" / "x.png"],
        "not an image": [tmp_path / "empty.png", tmp_path / "html.jpg", b"\xff\xd8"],
    }


def test_bad_images_end_the_packing(tmp_path):
    bad = bad_images(tmp_path)
    for number, image in enumerate(bad["missing image"]):
        with pytest.raises(MissingError, match="does not exist"):
            pack(listed(image), str(tmp_path / f"missing{number}"))
    for number, image in enumerate(bad["not an image"]):
        with pytest.raises(CorruptError, match="not an image") as caught:
            pack(listed(image), str(tmp_path / f"other{number}"))
        assert "--on-error skip" in caught.value.hint


def test_bad_images_are_left_out_and_listed(tmp_path):
    bad = bad_images(tmp_path)
    images = [png(0), *bad["missing image"], png(1), *bad["not an image"], png(2), png(3)]
    options = WriteOptions(samples_per_shard=2, skip_errors=True)
    summary = pack(listed(*images), str(tmp_path / "out"), options)
    assert summary.skipped == {"missing image": 3, "not an image": 3}
    assert (summary.samples, summary.shards) == (4, 2)
    assert {members["png"] for _, members in read_shards(tmp_path / "out")} == {png(n) for n in range(4)}
    lines = [
        json.loads(line)
        for path in sorted((tmp_path / "out").glob("shard-*.errors.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(lines) == 6
    (missing,) = [line for line in lines if line["where"] == str(tmp_path / "none.png")]
    assert missing["reason"] == "missing image"
    assert missing["problem"].startswith("the image")
    assert verify_dataset(str(tmp_path / "out"), deep=True).ok


def test_damaged_images_are_noticed_when_they_are_made_smaller(tmp_path):
    whole = encoded(Image.effect_noise((60, 60), 50), "JPEG")
    with pytest.raises(CorruptError, match="cannot be decoded"):
        pack(listed(whole[:-500]), str(tmp_path / "a"), resize=Resize(20))
    options = WriteOptions(skip_errors=True)
    summary = pack(listed(whole, whole[:-500]), str(tmp_path / "b"), options, resize=Resize(20))
    assert (summary.samples, summary.skipped) == (1, {"cannot be decoded": 1})
    assert pack(listed(whole, whole[:-500]), str(tmp_path / "c")).samples == 2, "copying does not decode"


def test_bad_rows_are_left_out_too(pictures, tmp_path):
    (pictures / "t.csv").write_text("image,caption\ncat/1.png,x\ncat/1.png,\n,y\ncat/9.png,z\ncat/3.png,w\n")
    items = open_input(pictures / "t.csv", strict=False)
    summary = pack(items, str(tmp_path / "out"), WriteOptions(skip_errors=True))
    assert summary.skipped == {"missing image": 1, "no caption": 1, "no image": 1}
    report = (tmp_path / "out" / "shard-000000.errors.jsonl").read_text()
    assert f"{pictures}/t.csv:5: the image {pictures}/cat/9.png does not exist" in report


def test_a_missing_image_is_named_with_its_line(pictures, tmp_path):
    (pictures / "t.csv").write_text("image,caption\ncat/99.png,x\n")
    with pytest.raises(MissingError, match=r"t\.csv:2: the image .*99\.png does not exist"):
        pack(open_input(pictures / "t.csv"), str(tmp_path / "out"))


def test_if_everything_is_left_out_there_is_no_dataset(tmp_path):
    options = WriteOptions(skip_errors=True)
    for _ in range(2):
        with pytest.raises(MissingError, match=r"every sample was left out \(2 not an image\)"):
            pack(listed(b"x", b"y"), str(tmp_path / "out"), options)
    assert not (tmp_path / "out" / "index.json").exists()
    assert (tmp_path / "out" / "shard-000000.errors.jsonl").read_text().count("\n") == 2


def test_images_that_refuse(pictures, tmp_path, monkeypatch):
    real = Path.read_bytes

    def refuse(path):
        if path.suffix == ".png":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(PermissionDeniedError, match="Permission denied"):
        pack(listed(pictures / "cat/1.png"), str(tmp_path / "out"))


def test_devices_are_not_read(tmp_path):
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    with pytest.raises(MissingError, match="does not exist"):
        pack(listed(tmp_path / "endless.png"), str(tmp_path / "out"))


def test_existing_shards_are_never_overwritten(folders, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other.tar").write_bytes(b"someone's")
    with pytest.raises(CannotCreateError, match="holds 1 shards already"):
        pack(folders, str(tmp_path / "out"))


@pytest.mark.parametrize("out", ["o.tar", "o-{0..3}.tar"])
def test_bad_outputs(folders, out, tmp_path):
    with pytest.raises(SpecError, match="Give a directory"):
        pack(folders, str(tmp_path / out))


def test_nothing_to_pack(tmp_path):
    with pytest.raises(MissingError, match="nothing to pack"):
        pack(listed(), str(tmp_path / "out"))


def test_without_class_names_there_is_no_class_file(pictures, tmp_path):
    summary = pack(ListedItems([PackItem(f"{pictures}/cat/1.png", ("x",), 5)]), str(tmp_path / "out"))
    assert summary.classes == ()
    with pytest.raises(MissingError):
        read_class_names(tmp_path / "out")


def test_captions_that_are_not_text_do_no_harm(tmp_path):
    pack(ListedItems([PackItem(png(1), ("half \ud83d a pair", "b"))]), str(tmp_path / "out"))
    ((_, members),) = read_shards(tmp_path / "out")
    assert members["txt"] == b"half ? a pair"


def test_what_the_command_line_uses_imports_neither_torch_nor_numpy():
    modules = (
        "index.dataset",
        "index.verify",
        "pack.pack",
        "pack.input",
        "pack.reshard",
        "gather.gather",
        "storage.location",
    )
    script = "import sys\n" + "".join(f"import clip_trainer.data.{name}\n" for name in modules)
    script += "print(sorted({'torch', 'numpy', 'webdataset', 'fsspec', 's3fs', 'PIL', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_of_images_with_captions(tmp_path):
    for n in range(5):
        (tmp_path / f"{n}.png").write_bytes(png(n))
        (tmp_path / f"{n}.txt").write_text(f"picture {n}")
    pack(open_input(tmp_path), str(tmp_path / "out"))
    found = {(members["png"], members["txt"]) for _, members in read_shards(tmp_path / "out")}
    assert found == {(png(n), b"picture %d" % n) for n in range(5)}


def test_paths_are_only_opened_when_their_turn_has_come(tmp_path, monkeypatch):
    """A bounded number of samples is in memory, however many there are."""
    image = png(1)
    (tmp_path / "a.png").write_bytes(image)
    read = []
    real = Path.read_bytes
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: read.append(path) or real(path))
    items = listed(*[tmp_path / "a.png"] * 500, b"no image")
    last = list(order_of(items)).index(500)
    with pytest.raises(CorruptError):
        pack(items, str(tmp_path / "out"), WriteOptions(workers=1))
    assert len(read) <= last + 16 * 4


def order_of(items):
    from clip_trainer.data.writing.shard_order import shuffled

    return shuffled(len(items), 0)

"""What the process behind `clipctl data check` answers."""

import json
import shutil

import pytest
from PIL import Image

from clip_testkit.flawedshards import SAMPLES, UNUSABLE, write_flawed
from clip_testkit.httpfaults import damage
from clip_testkit.s3fault import fault_server
from clip_testkit.shards import png, write_dataset
from clip_trainer.data.check.command import main
from clip_trainer.data.index.dataset import index_dataset
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.update import IndexOptions
from clipctl.contract.errors import CannotCreateError, MissingError
from clipctl.contract.sections import DataSection


@pytest.fixture(scope="module")
def flawed(tmp_path_factory):
    shards = tmp_path_factory.mktemp("flawed")
    write_flawed(shards)
    index_dataset(str(shards))
    return shards


@pytest.fixture
def check(capsys):
    """Runs a check; what it tells about its progress is in `told`."""

    def run(data, **request):
        section = DataSection.model_validate({"train": str(data), **request.pop("section", {})})
        defaults = {"samples": None, "seed": 0, "max_bad": 0.01, "previews": 0, "sheet": None}
        report = main([json.dumps({"data": section.model_dump(mode="json"), **defaults, **request})])
        run.told = [json.loads(line)["progress"] for line in capsys.readouterr().out.splitlines()]
        return json.loads(json.dumps(report))

    return run


def test_the_same_seed_reads_the_same_samples(check, flawed):
    one, same, other = (check(flawed, samples=20, seed=seed, previews=20) for seed in (1, 1, 2))
    assert one == same
    assert [found["key"] for found in one["previews"]] != [found["key"] for found in other["previews"]]
    assert (one["read"], one["samples"]) == (20, SAMPLES)


def test_progress_is_told(check, flawed):
    check(flawed, samples=40)
    assert [event["done"] for event in check.told if event["stage"] == "check"] == [16, 32, 40]


def test_a_limit_of_the_run_makes_more_images_too_large(check, flawed):
    usual, strict = (check(flawed, section={"max_pixels": limit})["problems"] for limit in (64_000_000, 10_000))
    assert usual["too many pixels: NxN"] == UNUSABLE["too many pixels: NxN"]
    assert strict["too many pixels: NxN"] > usual["too many pixels: NxN"]


def test_captions_of_the_run(check, flawed):
    report = check(flawed, section={"captions": {"json.caption": 1.0}})
    assert report["captions"]["count"] == 20
    assert report["captions"]["missing"] == {"no caption": SAMPLES - 21, "empty caption": 1}


def test_tolerance(check, flawed):
    assert not check(flawed, max_bad=0.2)["ok"]
    assert check(flawed, max_bad=0.22)["ok"]


def test_damage_of_stored_bytes_is_told_from_bad_images(check, flawed, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(flawed, shards)
    path = shards / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1  # inside the first member
    path.write_bytes(data)
    report = check(shards, max_bad=1.0)
    assert (report["damaged"], report["ok"]) == (1, False)
    (found,) = report["examples"]["stored bytes differ from the index"]
    assert (found["shard"], found["index"]) == ("shard-000001.tar", 0)
    assert report["verdict"].startswith(f"DAMAGED: 1 of {SAMPLES} samples differ from the index")


def test_another_index_of_the_same_shards(check, flawed):
    index_dataset(str(flawed), IndexOptions(rules=SampleRules(needs=("image", "caption"))), name="clean")
    report = check(flawed, section={"index": "clean"})
    assert report["samples"] == SAMPLES - 5
    assert report["problems"].keys().isdisjoint({"no image", "no caption", "empty caption"})


def test_a_table(check, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    rows = [*(f"{number}.png\tpicture {number}" for number in range(3)), "gone.png\tnobody"]
    (tmp_path / "t.tsv").write_text("filepath\ttitle\n" + "\n".join(rows) + "\n")
    report = check(tmp_path / "t.tsv")
    assert report["problems"] == {"missing file": 1}
    assert report["images"]["formats"] == {"PNG": 3}
    assert report["bytes"] > 3 * len(png(0))


def test_several_sources(check, flawed):
    report = check(f"{flawed}::{flawed}")
    assert report["samples"] == 2 * SAMPLES
    assert report["duplicate_keys"]["repeats"] == SAMPLES
    assert report["data"] == f"{flawed}::{flawed}"


class TestSheet:
    def test_it_shows_usable_samples(self, check, flawed, tmp_path):
        path = tmp_path / "new" / "folder" / "sheet"  # the format does not depend on the name
        assert check(flawed, sheet=str(path))["sheet"] == str(path)
        with Image.open(path) as sheet:
            assert sheet.format == "PNG"
            assert sheet.width > 1000

    def test_previews_are_shown_apart_from_it(self, check, flawed, tmp_path):
        report = check(flawed, sheet=str(tmp_path / "a.png"), previews=2)
        assert len(report["previews"]) == 2
        assert set(report["previews"][0]) == {"key", "width", "height", "format", "caption"}

    def test_without_a_usable_sample_there_is_none(self, check, tmp_path):
        (tmp_path / "t.tsv").write_text("filepath\ttitle\ngone.png\tnobody\n")
        path = tmp_path / "a.png"
        assert check(tmp_path / "t.tsv", sheet=str(path))["sheet"] is None
        assert not path.exists()

    def test_a_place_that_cannot_be_written(self, check, flawed):
        with pytest.raises(CannotCreateError, match="cannot be written"):
            check(flawed, sheet=str(flawed), samples=5)


def test_what_is_not_there(check, tmp_path):
    with pytest.raises(MissingError):
        check(tmp_path / "nowhere")


class TestFarAway:
    """Shards behind HTTP: a draw fetches the samples it looks at, and nothing around them."""

    @pytest.fixture
    def server(self, tmp_path):
        write_dataset(tmp_path, [200, 200])
        index_dataset(str(tmp_path))
        with fault_server(objects={f"/set/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}) as server:
            yield server

    def shard_ranges(self, server):
        return [request for request in server.requests if request.path.endswith(".tar") and "range" in request.headers]

    def test_a_draw(self, check, server):
        report = check(f"{server.url}/set", samples=10)
        assert (report["read"], report["unusable"]) == (10, 0)
        assert len(self.shard_ranges(server)) == 10

    def test_all(self, check, server):
        report = check(f"{server.url}/set")
        assert (report["read"], report["unusable"]) == (400, 0)
        assert len(self.shard_ranges(server)) < 10

    def test_damage_on_the_way_is_told_from_bad_images(self, check, server):
        server.add(damage(), path=r"shard-000001\.tar")
        report = check(f"{server.url}/set", max_bad=1.0)
        assert not report["ok"]
        assert report["damaged"] > 0

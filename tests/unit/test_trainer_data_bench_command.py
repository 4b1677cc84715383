"""What the process behind `clipctl data bench` answers. Nothing here looks at how fast anything is."""

import json

import pytest
import torch

from clip_testkit.flawedshards import write_flawed
from clip_testkit.shards import png
from clip_trainer.data.bench import command as bench_command
from clip_trainer.data.bench.command import main
from clip_trainer.data.index.dataset import index_dataset
from clipctl.contract.errors import CorruptError, MissingError, SpecError
from clipctl.contract.sections import DataSection


@pytest.fixture(scope="module")
def flawed(tmp_path_factory):
    shards = tmp_path_factory.mktemp("flawed")
    write_flawed(shards)
    index_dataset(str(shards))
    return shards


@pytest.fixture(autouse=True)
def _threads():
    """The process is alone in earnest; here the other tests want their threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bench(capsys):
    """Runs a bench; what it tells about its progress is in `told`."""

    def run(data, **request):
        section = DataSection.model_validate({"train": str(data), **request.pop("section", {})})
        defaults = {"model": "ViT-tiny-8-32", "batch": 8, "threads": 1, "seconds": 0.02, "batches": 1}
        report = main([json.dumps({"data": section.model_dump(mode="json"), **defaults, **request})])
        run.told = [json.loads(line)["progress"] for line in capsys.readouterr().out.splitlines()]
        return json.loads(json.dumps(report))

    return run


def test_the_report(bench, flawed):
    report = bench(flawed)
    assert list(report["stages"]) == ["read", "decode", "transform", "tokenise"]
    assert (report["data"], report["model"], report["batch"], report["threads"]) == (str(flawed), "ViT-tiny-8-32", 8, 1)
    assert (report["input_side"], report["remote"]) == (32, False)
    assert report["end_to_end"]["samples"] == 8
    assert report["held"] > report["unusable"] > 0
    assert report["bottleneck"] in ("storage", "loader", *report["stages"])
    assert all(report["advice"])


def test_figures_follow_from_each_other(bench, flawed):
    report = bench(flawed)
    for timing in (*report["stages"].values(), report["parse"], report["end_to_end"]):
        assert timing["samples_per_second"] == pytest.approx(timing["samples"] / timing["seconds"], rel=0.01, abs=0.1)
        cpu = 1e6 * timing["cpu_seconds"] / timing["samples"]
        assert timing["cpu_us_per_sample"] == pytest.approx(cpu, rel=0.01, abs=0.1)


def test_progress_names_the_stages(bench, flawed):
    bench(flawed)
    stages = [event["stage"].removeprefix("measuring ") for event in bench.told if event["stage"].startswith("measur")]
    assert stages == ["read", "parse", "decode", "transform", "tokenise", "all together"]
    assert [event["done"] for event in bench.told][-6:] == list(range(6))


def test_one_thread_a_cpu_unless_told(bench, flawed, monkeypatch):
    monkeypatch.setattr(bench_command, "usable_cpus", lambda: 3)
    assert bench(flawed, threads=None)["threads"] == 3
    assert bench(flawed, threads=2)["threads"] == 2


def test_the_model_decides_the_size_of_images(bench, flawed):
    assert bench(flawed, model="ViT-small-8-64")["input_side"] == 64


def test_limits_of_the_run_hold(bench, flawed):
    plain, strict = (bench(flawed, section={"max_pixels": limit}) for limit in (64_000_000, 10_000))
    assert strict["image_side"] < plain["image_side"]


def test_a_table_has_nothing_to_take_apart(bench, tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    rows = "".join(f"{number}.png\tpicture {number}\n" for number in range(8))
    (tmp_path / "t.tsv").write_text("filepath\ttitle\n" + rows)
    report = bench(tmp_path / "t.tsv")
    assert report["parse"] is None
    assert report["image_side"] == 8
    assert report["stages"]["read"]["bytes"] > 0


def test_made_up_samples(bench):
    report = bench("synthetic:500")
    assert (report["image_side"], report["unusable"]) == (224, 0)
    assert report["stages"]["read"]["bytes"] == 0


def test_what_cannot_be_measured(bench, flawed, tmp_path):
    with pytest.raises(SpecError, match="no model"):
        bench(flawed, model="no-such-model")
    with pytest.raises(MissingError):
        bench(tmp_path / "nowhere")
    (tmp_path / "t.tsv").write_text("filepath\ttitle\ngone.png\tnobody\n")
    with pytest.raises((MissingError, CorruptError)):
        bench(tmp_path / "t.tsv")

"""`clipctl data stats`, `check` and `bench` as a user runs them, on a data set whose flaws are known."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from clip_testkit.flawedshards import GOOD, SAMPLES, TRUNCATED, UNUSABLE, write_flawed
from clipctl.contract.errors import ExitCode

BAD = sum(UNUSABLE.values()) + TRUNCATED


def clipctl(*arguments):
    command = [sys.executable, "-m", "clipctl", "data", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def flawed(tmp_path_factory):
    shards = tmp_path_factory.mktemp("flawed")
    write_flawed(shards)
    assert clipctl("index", shards).returncode == 0
    return shards


@pytest.fixture(scope="module")
def checked(flawed):
    """The report of all samples."""
    done = clipctl("check", flawed, "--all", "--json", "--previews", "4", "--sheet", flawed / "sheet" / "all.png")
    assert done.returncode == ExitCode.CORRUPT, done.stderr
    return json.loads(done.stdout)


def test_every_flaw_is_counted_by_its_reason(checked):
    truncated = [reason for reason in checked["problems"] if "truncated" in reason]
    assert len(truncated) == 1
    assert checked["problems"] == {**UNUSABLE, truncated[0]: TRUNCATED}
    assert (checked["read"], checked["samples"], checked["unusable"], checked["damaged"]) == (SAMPLES, SAMPLES, BAD, 0)


def test_flaws_are_named_by_their_keys(checked):
    keys = {reason: [one["key"] for one in found] for reason, found in checked["examples"].items()}
    assert keys["not an image"] == ["html-0", "html-1", "html-2"]
    assert keys["no caption"] == ["speechless-0", "speechless-1"]
    assert keys["empty caption"] == ["blank-0"]
    assert all(one["shard"].startswith("shard-") for found in checked["examples"].values() for one in found)


def test_what_is_odd_but_usable_is_reported_too(checked):
    assert checked["images"]["rotated_by_exif"] == 1
    assert checked["images"]["duplicates"]["examples"] == ["good-007"]
    assert checked["captions"]["cut"] == 2
    assert checked["captions"]["scripts"] == {"Latin": 29, "Japanese": 10, "Cyrillic": 9}
    assert checked["languages"] == {"en": 10, "de": 10}
    assert checked["json_keys"] == {"caption": 20, "LANGUAGE": 20, "number": 20}
    assert checked["duplicate_keys"]["repeats"] == 0
    assert checked["images"]["count"] == GOOD + UNUSABLE["no caption"] + UNUSABLE["empty caption"]


def test_the_verdict(checked, flawed):
    assert checked["ok"] is False
    assert checked["verdict"] == f"BAD: {BAD} of {SAMPLES} samples cannot be used (22 %), more than the tolerated 1.0 %"
    done = clipctl("check", flawed, "--max-bad", "0.25")
    assert done.returncode == 0
    last = done.stdout.splitlines()[-1]
    assert last == f"OK: {BAD} of {SAMPLES} samples cannot be used (22 %), training replaces them"


def test_previews_and_sheet(checked):
    assert len(checked["previews"]) == 4
    assert all(one["key"].startswith("good-") for one in checked["previews"])
    with Image.open(checked["sheet"]) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 1000
        assert len(sheet.getcolors(maxcolors=1 << 24)) > 1000  # pictures of noise


def test_stats_agree(flawed):
    done = clipctl("stats", flawed, "--json")
    stats = json.loads(done.stdout)
    assert (stats["samples"], stats["shards"]) == (SAMPLES, len(list(flawed.glob("*.tar"))))
    assert stats["with_image"] == SAMPLES - UNUSABLE["no image"]


def test_bench_measures_every_stage_and_gives_advice(flawed):
    done = clipctl("bench", flawed, "--seconds", "0.2", "--batches", "2", "--batch", "16", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report["stages"]) == ["read", "decode", "transform", "tokenise"]
    for stage in (*report["stages"].values(), report["parse"], report["end_to_end"]):
        assert stage["samples_per_second"] > 0
        assert stage["cpu_us_per_sample"] > 0
    assert report["end_to_end"]["samples"] <= 32
    assert report["first_batch_seconds"] > 0
    assert report["unusable"] > 0
    assert report["advice"]


def test_what_is_not_there(tmp_path):
    done = clipctl("check", tmp_path / "nowhere")
    assert done.returncode == ExitCode.MISSING
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""

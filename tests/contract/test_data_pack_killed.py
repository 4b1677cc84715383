"""`clipctl data pack` and `reshard`, killed at random moments, on disk and in S3, end with the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from clip_testkit.shards import read_shards
from clip_trainer.data.storage.location import parse_location
from clip_trainer.data.storage.source import open_source

SAMPLES = 160
OPTIONS = ["--samples-per-shard", "8", "--workers", "2", "--json"]
KILLS = 3


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(endpoint, monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path):
    """A table of noisy pictures, one of which is missing."""
    lines = ["image,caption"]
    for number in range(SAMPLES):
        Image.effect_noise((96, 80), 40 + number).save(tmp_path / f"{number}.jpg")
        lines.append(f"{number}.jpg,caption {number}")
    (tmp_path / "77.jpg").unlink()
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "t.csv"


def start(*arguments):
    command = [sys.executable, "-m", "clipctl", "data", *map(str, arguments), *OPTIONS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)


def finish(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def shards_in(out):
    try:
        return len(open_source(parse_location(str(out))).list_shards())
    except Exception:
        return 0


def kill_somewhere(draw, out, *arguments):
    """Kill the process once it has written a few more shards, and a random moment later."""
    goal = shards_in(out) + draw.randint(0, 3)
    process = start(*arguments)
    while shards_in(out) < goal and process.poll() is None:  # killed before the first one, it proves nothing
        time.sleep(0.002)
    time.sleep(draw.random() * 0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def objects(out, names):
    source = open_source(parse_location(str(out)))
    return {name: source.load(name) for name in names}


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_packing_is_killed(table, tmp_path, environment, where):
    arguments = ["--resize", "64", "--on-error", "skip"]
    whole, out = tmp_path / "whole", str(tmp_path / "out")
    if where == "s3":
        out = "s3://killed/data"
        make_bucket("killed")
    finish("pack", table, whole, *arguments)
    names = [path.name for path in whole.iterdir()]
    expected = objects(whole, [name for name in names if not name.startswith("index")])
    assert len([name for name in expected if name.endswith(".tar")]) == 20
    assert sum(name.endswith(".errors.jsonl") for name in expected) == 1
    draw = random.Random(where)
    for _ in range(KILLS):
        kill_somewhere(draw, out, "pack", table, out, *arguments)
    assert json.loads(finish("pack", table, out, *arguments))["resumed"] > 0
    assert objects(out, expected) == expected
    if where == "disk":
        assert sorted(path.name for path in Path(out).iterdir()) == sorted(names), "nothing is left over"
    assert json.loads(finish("pack", table, out, *arguments))["complete"]


def make_bucket(name):
    request = urllib.request.Request(f"{os.environ['AWS_ENDPOINT_URL_S3']}/{name}", method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


def test_resharding_is_killed(table, tmp_path, environment):
    finish("pack", table, tmp_path / "in", "--on-error", "skip")
    arguments = ["reshard", tmp_path / "in"]
    finish(*arguments, tmp_path / "whole", "--seed", "3", "--shard-bytes", "30000")
    draw = random.Random(7)
    for _ in range(KILLS):
        kill_somewhere(draw, tmp_path / "out", *arguments, tmp_path / "out", "--seed", "3", "--shard-bytes", "30000")
    finish(*arguments, tmp_path / "out", "--seed", "3", "--shard-bytes", "30000")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected
    assert dict(read_shards(tmp_path / "out")) == dict(read_shards(tmp_path / "in"))

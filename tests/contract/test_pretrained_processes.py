"""Fetching weights from several processes at once, through kills, and from object storage (moto)."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from clip_testkit.fetching import fetch_settings
from clip_testkit.weightserver import Fault, serving
from clip_trainer.pretrained.fetching import WEIGHTS, Fetcher
from clipctl.contract.errors import CorruptError, MissingError

CONTENT = bytes(range(256)) * 12_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPO = "org/model"

CLIENT = """
import sys
from clip_trainer import pretrained
def tell(progress):
    print("waiting" if progress.waiting else f"bytes {progress.done}", flush=True)
print("path", pretrained.fetch(None, sys.argv[1], progress=tell), flush=True)
"""


@pytest.fixture(name="server")
def _server():
    with serving() as server:
        yield server


@pytest.fixture(name="start")
def _start(server, tmp_path):
    started = []

    def start(source):
        environ = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}
        environ = {name: value for name, value in environ.items() if not name.endswith("_OFFLINE")}
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, source],
            env={**environ, "XDG_CACHE_HOME": str(tmp_path / "xdg")},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def read_until(process, beginning):
    for line in process.stdout:
        if line.startswith(beginning):
            return line.split(maxsplit=1)[-1].strip()
    raise AssertionError(f"the process ended without {beginning!r}")


@pytest.mark.parametrize("kind", ["hub", "address"])
def test_the_ranks_of_a_node_fetch_a_file_once(server, start, kind):
    gate = threading.Event()
    if kind == "hub":
        server.add_hub_file(REPO, WEIGHTS[0], CONTENT, faults=[Fault(hold=gate)])
        source, place = f"hf-hub:{REPO}", f"/storage/{SHA256}"
    else:
        server.add("/w.safetensors", CONTENT, faults=[Fault(hold=gate)])
        source, place = f"{server.url}/w.safetensors", "/w.safetensors"
    ranks = [start(source) for _ in range(3)]
    waiting, paths = [], []

    def watch(process):
        for line in process.stdout:
            if line.startswith("waiting"):
                waiting.append(process)
                if len(waiting) == 2:
                    gate.set()
            if line.startswith("path"):
                paths.append(line.split(maxsplit=1)[1].strip())

    watchers = [threading.Thread(target=watch, args=[process]) for process in ranks]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join(60)
    assert len(waiting) == 2
    assert len(paths) == 3
    assert len(set(paths)) == 1
    assert Path(paths[0]).read_bytes() == CONTENT
    assert len(server.asked(place)) == 1


def test_a_killed_process_leaves_its_part_and_its_lock_to_the_next(server, start, tmp_path):
    server.add("/w.safetensors", CONTENT, faults=[Fault(stall_after=2_000_000)])
    first = start(f"{server.url}/w.safetensors")
    while int(read_until(first, "bytes")) < 2_000_000:
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not list((tmp_path / "xdg").rglob("w.safetensors"))
    second = start(f"{server.url}/w.safetensors")
    path = read_until(second, "path")
    assert Path(path).read_bytes() == CONTENT
    assert server.asked("/w.safetensors")[1].headers["Range"] == "bytes=2000000-"


@pytest.fixture(scope="module", name="endpoint")
def _endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(name="bucket")
def _bucket(endpoint, monkeypatch, tmp_path):
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=f"weights-{tmp_path.name[-20:].replace('_', '-')}".lower())
    name = client.list_buckets()["Buckets"][-1]["Name"]
    return lambda key, body: client.put_object(Bucket=name, Key=key, Body=body) and f"s3://{name}/{key}"


def test_weights_in_object_storage(bucket, tmp_path):
    url = bucket("models/w.safetensors", CONTENT * 4)  # more than one range
    fetcher = Fetcher(fetch_settings(tmp_path))
    path = fetcher.location(url)
    assert path.read_bytes() == CONTENT * 4
    assert fetcher.location(url) == path
    with pytest.raises(MissingError):
        fetcher.location(url.replace("w.safe", "none.safe"))
    with pytest.raises(CorruptError):
        fetcher.weights(None, url, sha256="0" * 8)


def test_a_mirror_in_object_storage(bucket, tmp_path):
    laion = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    url = bucket(f"mirror/{laion}/resolve/main/{WEIGHTS[0]}", CONTENT)
    bucket(f"mirror/{laion}/resolve/main/{WEIGHTS[0]}.sha256", f"{SHA256}  {WEIGHTS[0]}\n".encode())
    fetcher = Fetcher(fetch_settings(tmp_path, mirror=url.partition("/laion")[0]))
    assert fetcher.weights("ViT-B-32", "laion2b_s34b_b79k").path.read_bytes() == CONTENT
    with pytest.raises(MissingError):
        fetcher.weights("ViT-B-16", "laion2b_s34b_b88k")

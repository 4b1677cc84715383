"""`fetch`: tags, files, directories, addresses, the mirror; and offline, without a single connection."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clip_testkit.fetching import fetch_settings
from clip_testkit.weightserver import COMMIT, Fault, serving
from clip_trainer import pretrained
from clip_trainer.pretrained import registry
from clip_trainer.pretrained.fetching import WEIGHTS, Fetcher
from clip_trainer.pretrained.settings import from_environment
from clipctl.contract.errors import CorruptError, MissingError, PermissionDeniedError, SpecError

CONTENT = b"weights" * 50_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SAFE, PICKLED = WEIGHTS
LAION = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"


@pytest.fixture(name="server")
def _server():
    with serving() as server:
        yield server


@pytest.fixture(name="hub_environment")
def _hub_environment(server, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "CLIPCTL_OFFLINE", "CLIPCTL_MIRROR", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return tmp_path


def test_a_tag_is_fetched_from_the_hub(server, hub_environment):
    server.add_hub_file(LAION, SAFE, CONTENT)
    path = pretrained.fetch("ViT-B/32", "LAION2B-s34b-b79k")
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(hub_environment / "hf" / "hub")


def test_a_cache_directory_may_be_named(server, hub_environment, tmp_path):
    server.add_hub_file(LAION, SAFE, CONTENT)
    path = pretrained.fetch("ViT-B-32", "laion2b_s34b_b79k", tmp_path / "mine")
    assert path.is_relative_to(tmp_path / "mine")


def test_an_entry_may_name_its_file(server, tmp_path):
    server.add_hub_file("jienengchen/ViTamin-S", "pytorch_model.bin", CONTENT)
    fetched = Fetcher(fetch_settings(tmp_path, server)).weights("ViTamin-S", "datacomp1b")
    assert fetched.path.name == "pytorch_model.bin"
    assert fetched.source == "hf-hub:jienengchen/ViTamin-S/pytorch_model.bin"
    assert fetched.entry is registry.entry("ViTamin-S", "datacomp1b")


def test_the_hint_of_a_failure_names_the_other_source(server, tmp_path):
    fetcher = Fetcher(fetch_settings(tmp_path, server))
    with pytest.raises(MissingError) as caught:
        fetcher.weights("RN50", "openai")
    assert registry.entry("RN50", "openai").url in caught.value.hint


@pytest.mark.parametrize("source", ["nothing", "laion2b-nothing"])
def test_a_name_that_is_neither_tag_nor_file(tmp_path, source):
    with pytest.raises(MissingError) as caught:
        Fetcher(fetch_settings(tmp_path)).weights("ViT-B-32", source)
    assert "laion2b_s34b_b79k" in caught.value.hint
    assert "no file of this name" in caught.value.hint
    with pytest.raises(SpecError, match="neither a file nor an address"):
        Fetcher(fetch_settings(tmp_path)).weights(None, source)


def test_files_and_directories_are_taken_where_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / SAFE).write_bytes(b"y")
    fetcher = Fetcher(fetch_settings(tmp_path, offline=True))
    assert fetcher.weights(None, str(tmp_path / "w.pt")).path == tmp_path / "w.pt"
    assert fetcher.weights("ViT-B-32", "w.pt").path.read_bytes() == b"x"
    assert fetcher.weights(None, "local-dir:folder").path.read_bytes() == b"y"
    assert fetcher.weights(None, f"file://{tmp_path}/folder").path.read_bytes() == b"y"
    with pytest.raises(MissingError, match="no file"):
        fetcher.weights(None, "./none.pt")


def test_a_tag_wins_over_a_file_of_its_name(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "laion2b_s34b_b79k").write_bytes(b"not these")
    server.add_hub_file(LAION, SAFE, CONTENT)
    fetched = Fetcher(fetch_settings(tmp_path, server)).weights("ViT-B-32", "laion2b_s34b_b79k")
    assert fetched.path.read_bytes() == CONTENT


def test_an_address_is_fetched_once_and_noted_with_its_digest(server, tmp_path):
    server.add("/a/w.safetensors", CONTENT)
    fetcher = Fetcher(fetch_settings(tmp_path, server))
    path = fetcher.weights(None, f"{server.url}/a/w.safetensors").path
    assert path.read_bytes() == CONTENT
    assert path.with_name("w.safetensors.sha256").read_text() == f"{SHA256}  w.safetensors\n"
    assert fetcher.weights(None, f"{server.url}/a/w.safetensors").path == path
    assert len(server.requests) == 1


def test_two_addresses_with_one_file_name_are_two_files(server, tmp_path):
    server.add("/a/w.pt", b"first")
    server.add("/b/w.pt", b"second")
    fetcher = Fetcher(fetch_settings(tmp_path, server))
    first, second = (fetcher.location(f"{server.url}/{folder}/w.pt") for folder in "ab")
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")


def test_an_address_with_a_digest_shares_the_cache_of_openclip(server, tmp_path):
    name = f"vit-{SHA256[:8]}.pt"
    server.add(f"/mlfoundations/{name}", CONTENT)
    settings = fetch_settings(tmp_path, server)
    url = f"{server.url}/mlfoundations/{name}"
    assert Fetcher(settings).location(url) == settings.url_cache / name
    server.requests.clear()
    assert Fetcher(settings).location(url).read_bytes() == CONTENT
    assert server.requests == []


def test_a_cached_file_that_decayed_is_fetched_again_and_offline_refused(server, tmp_path, caplog):
    server.add("/w.pt", CONTENT)
    fetcher = Fetcher(fetch_settings(tmp_path, server))
    path = fetcher.location(f"{server.url}/w.pt")
    path.write_bytes(b"?" + CONTENT[1:])
    with pytest.raises(CorruptError):
        Fetcher(fetch_settings(tmp_path, server, offline=True)).location(f"{server.url}/w.pt")
    assert fetcher.location(f"{server.url}/w.pt").read_bytes() == CONTENT
    assert "fetched again" in caplog.text


def test_a_digest_given_by_hand(server, tmp_path):
    server.add("/w.pt", CONTENT)
    fetcher = Fetcher(fetch_settings(tmp_path, server))
    with pytest.raises(CorruptError):
        fetcher.weights(None, f"{server.url}/w.pt", sha256="0" * 64)
    assert not list((tmp_path / "urls").rglob("w.pt*"))
    assert fetcher.weights(None, f"{server.url}/w.pt", sha256=SHA256).path.read_bytes() == CONTENT


def test_refresh_fetches_an_address_again(server, tmp_path):
    server.add("/w.pt", b"old")
    settings = fetch_settings(tmp_path, server)
    Fetcher(settings).location(f"{server.url}/w.pt")
    server.add("/w.pt", b"new")
    assert Fetcher(settings).location(f"{server.url}/w.pt").read_bytes() == b"old"
    assert Fetcher(settings, refresh=True).location(f"{server.url}/w.pt").read_bytes() == b"new"


# --- OpenCLIP's functions ---


def test_openclips_functions(server, hub_environment, tmp_path):
    server.add_hub_file(LAION, SAFE, CONTENT)
    server.add_hub_file(LAION, "open_clip_config.json", b"{}", large=False)
    cfg = pretrained.get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k")
    path = pretrained.download_pretrained(cfg, cache_dir=str(tmp_path / "c"))
    assert isinstance(path, str)
    assert path.startswith(str(tmp_path / "c"))
    assert pretrained.download_pretrained_from_hf(LAION, cache_dir=str(tmp_path / "c")) == path
    config = pretrained.download_pretrained_from_hf(LAION, filename="open_clip_config.json", revision=COMMIT)
    assert Path(config).read_text() == "{}"
    assert pretrained.fetch_hub_file(LAION, "open_clip_config.json").read_text() == "{}"


def test_openclips_functions_with_addresses(server, hub_environment, tmp_path):
    server.add("/w.pt", CONTENT)
    path = pretrained.download_pretrained_from_url(f"{server.url}/w.pt", cache_dir=str(tmp_path / "c"))
    assert Path(path).read_bytes() == CONTENT
    both = {"url": f"{server.url}/w.pt", "hf_hub": f"{LAION}/"}
    assert pretrained.download_pretrained(both, prefer_hf_hub=False, cache_dir=str(tmp_path / "c")) == path
    assert pretrained.download_pretrained({"url": f"{server.url}/w.pt"}, cache_dir=str(tmp_path / "c")) == path
    assert pretrained.download_pretrained({"file": "/a/b.pt"}) == "/a/b.pt"
    assert pretrained.download_pretrained({}) == ""


def test_a_refused_token_is_not_a_missing_file(server, hub_environment):
    server.add_hub_file(LAION, SAFE, CONTENT)
    server.files[f"/{LAION}/resolve/main/{SAFE}"].faults = [Fault(status=401, head_too=True)]
    with pytest.raises(PermissionDeniedError):
        pretrained.download_pretrained_from_hf(LAION)


# --- the mirror ---


def test_the_mirror_replaces_hub_and_addresses(server, tmp_path):
    server.add(f"/m/{LAION}/resolve/main/{SAFE}", CONTENT)
    server.add("/m/dl.fbaipublicfiles.com/MMPT/metaclip/b32_400m.pt", b"metaclip")
    settings = fetch_settings(tmp_path, mirror=f"{server.url}/m")
    fetcher = Fetcher(settings)
    assert fetcher.weights("ViT-B-32", "laion2b_s34b_b79k").path.read_bytes() == CONTENT
    addressed = Fetcher(settings, prefer_hf_hub=False)
    assert addressed.weights("ViT-B-32", "metaclip_400m").path.read_bytes() == b"metaclip"
    assert fetcher.weights("ViT-B-32", "laion2b_s34b_b79k").path.read_bytes() == CONTENT
    assert len(server.asked(f"/m/{LAION}/resolve/main/{SAFE}")) == 1


def test_the_mirrors_digest_files_are_believed(server, tmp_path):
    place = f"/m/{LAION}/resolve/main/{SAFE}"
    server.add(place, CONTENT)
    server.add(f"{place}.sha256", b"0" * 64 + b"  file\n")
    fetcher = Fetcher(fetch_settings(tmp_path, mirror=f"{server.url}/m"))
    with pytest.raises(CorruptError, match="0000"):
        fetcher.weights("ViT-B-32", "laion2b_s34b_b79k")
    server.add(f"{place}.sha256", b"<html>")
    with pytest.raises(CorruptError, match="holds no sha256"):
        fetcher.weights("ViT-B-32", "laion2b_s34b_b79k")
    server.add(f"{place}.sha256", f"{SHA256} *{SAFE}\n".encode(), faults=[Fault(status=503)])
    assert fetcher.weights("ViT-B-32", "laion2b_s34b_b79k").path.read_bytes() == CONTENT


def test_the_mirror_may_have_only_the_pickled_weights(server, tmp_path):
    server.add(f"/{LAION}/resolve/main/{PICKLED}", CONTENT)
    fetcher = Fetcher(fetch_settings(tmp_path, mirror=server.url))
    path = fetcher.weights("ViT-B-32", "laion2b_s34b_b79k").path
    assert path.name == PICKLED
    offline = Fetcher(fetch_settings(tmp_path, mirror=server.url, offline=True))
    assert offline.weights("ViT-B-32", "laion2b_s34b_b79k").path == path


def test_what_the_mirror_lacks_is_missing_and_nobody_else_is_asked(server, tmp_path):
    with serving() as hub:
        hub.add_hub_file(LAION, SAFE, CONTENT)
        fetcher = Fetcher(fetch_settings(tmp_path, hub, mirror=server.url))
        with pytest.raises(MissingError):
            fetcher.weights("ViT-B-32", "laion2b_s34b_b79k")
        assert hub.requests == []


def test_the_hubs_cache_comes_before_the_mirror(server, tmp_path):
    server.add_hub_file(LAION, SAFE, CONTENT)
    path = Fetcher(fetch_settings(tmp_path, server)).weights("ViT-B-32", "laion2b_s34b_b79k").path
    server.requests.clear()
    mirrored = Fetcher(fetch_settings(tmp_path, mirror=f"{server.url}/nothing"))
    assert mirrored.weights("ViT-B-32", "laion2b_s34b_b79k").path == path
    assert server.requests == []


@pytest.mark.parametrize("mirror", ["no-scheme", "ftp://host/x", "file:///x"])
def test_a_mirror_that_is_no_address(tmp_path, mirror):
    with pytest.raises(SpecError, match="CLIPCTL_MIRROR"):
        Fetcher(fetch_settings(tmp_path, mirror=mirror)).weights("RN50", "openai")


# --- offline ---

OFFLINE = """
import json, os, sys
touched = []
def hook(event, arguments):
    if event.startswith("socket."):
        touched.append(event)
sys.addaudithook(hook)
from clip_trainer import pretrained
from clipctl.contract.errors import ClipError
outcomes = []
for model, source in json.loads(sys.argv[1]):
    try:
        outcomes.append(str(pretrained.fetch(model, source)))
    except ClipError as error:
        outcomes.append([type(error).__name__, int(error.code), str(error)])
import socket
try:
    socket.socket()
except OSError:
    pass
print(json.dumps([outcomes, touched]))
"""


@pytest.mark.parametrize("name", ["CLIPCTL_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_opens_not_one_socket(server, hub_environment, name):
    server.add_hub_file(LAION, SAFE, CONTENT)
    server.add("/w.pt", CONTENT)
    cached = [str(pretrained.fetch("ViT-B-32", "laion2b_s34b_b79k")), str(pretrained.fetch(None, f"{server.url}/w.pt"))]
    wanted = [
        ("ViT-B-32", "laion2b_s34b_b79k"),
        (None, f"{server.url}/w.pt"),
        ("RN50", "openai"),
        ("ViT-B-32", "metaclip_400m"),
        (None, "hf-hub:org/none"),
        (None, f"{server.url}/other.pt"),
        (None, "s3://bucket/none.pt"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, json.dumps(wanted)],
        env={**os.environ, name: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes, touched = json.loads(done.stdout)
    assert outcomes[:2] == cached
    assert [outcome[:2] for outcome in outcomes[2:]] == [["OfflineError", 66]] * 5
    assert all("connections are switched off" in outcome[2] for outcome in outcomes[2:])
    assert touched == ["socket.__new__"], "only the socket the probe opens itself"


def test_offline_with_a_mirror(server, tmp_path):
    settings = fetch_settings(tmp_path, mirror=server.url, offline=True)
    fetcher = Fetcher(settings)
    for source in ("laion2b_s34b_b79k", "openai"):
        with pytest.raises(MissingError, match="switched off"):
            fetcher.weights("ViT-B-32", source)
    with pytest.raises(MissingError, match="switched off"):
        Fetcher(settings, prefer_hf_hub=False).weights("ViT-B-32", "openai")
    assert server.requests == []


def test_the_environment_is_read_when_a_fetcher_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert Fetcher().settings.hub_cache == from_environment().hub_cache == tmp_path

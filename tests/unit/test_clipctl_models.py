"""`clipctl models`: list, show, pull, bundle, golden, through the command line."""

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from clip_testkit.weightserver import Fault, serving
from clip_trainer.pretrained.fetching import WEIGHTS
from clip_trainer.pretrained.tokenizerfiles import clip_tokenizer_files
from clipctl.cli import main
from clipctl.contract.errors import CorruptError

LAION = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
SAFE, PICKLED = WEIGHTS


def safetensors(*names):
    """A file with one scalar per name."""
    entries = {name: {"dtype": "F32", "shape": [], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)}
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack(f"<{len(names)}f", *range(len(names)))


CONTENT = safetensors("logit_scale", "visual.proj")
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(name="server")
def _server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _environment(server, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "CLIPCTL_OFFLINE", "CLIPCTL_MIRROR", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)


@pytest.fixture(name="run")
def _run(capsys):
    def run(*arguments):
        status = main(["models", *map(str, arguments)])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


@pytest.fixture(name="run_json")
def _run_json(run):
    def run_json(*arguments):
        status, out, err = run(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return run_json


# --- list and show ---


def test_list_names_all_models(run, run_json):
    rows = run_json("list")
    assert len(rows) >= 147
    base = next(row for row in rows if row["name"] == "ViT-B-32")
    assert (base["parameters"], base["image_size"], base["embed_dim"]) == (151277313, 224, 512)
    assert "openai" in base["tags"]
    _, out, _ = run("list", "RN50*")
    assert out.splitlines()[0].split() == ["MODEL", "PARAMETERS", "IMAGE", "TAGS"]
    assert [line.split()[0] for line in out.splitlines()[1:]] == sorted(
        [f"RN50{size}{quick}" for size in ("", "x4", "x16", "x64") for quick in ("", "-quickgelu")]
    )


def test_list_of_published_weights(run, run_json):
    rows = run_json("list", "--pretrained")
    assert len(rows) == 196
    assert {"model", "tag", "hf_hub", "url", "sha256", "licence", "mean"} <= rows[0].keys()
    _, out, _ = run("list", "--pretrained", "ViT-B-16-SigLIP2")
    assert out.splitlines()[1].split() == ["ViT-B-16-SigLIP2", "webli", "unknown", "timm/ViT-B-16-SigLIP2"]
    assert run("list", "nothing*")[1] == "no models\n"


def test_show_a_model(run, run_json):
    details = run_json("show", "ViT-B/32")
    assert details["parameters"] == {"total": 151277313, "image": 87849216, "rest": 63428097}
    assert details["config"]["vision_cfg"]["patch_size"] == 32
    assert details["tags"][0] == "openai"
    _, out, _ = run("show", "ViT-B-16-SigLIP")
    assert "    hf_tokenizer_name: timm/ViT-B-16-SigLIP\n" in out, "a tokenizer's name is no secret"


def test_show_published_weights_without_a_request(server, run_json):
    details = run_json("show", "ViT-B-32", "OpenAI")
    assert details["licence"] == "MIT"
    assert details["quick_gelu"] is True
    assert details["preprocess"]["resize_mode"] == "shortest"
    assert details["cached"] is None
    assert server.requests == []


def test_show_says_what_is_in_the_cache(server, run_json):
    server.add_hub_file(LAION, SAFE, CONTENT)
    path = run_json("pull", "ViT-B-32", "laion2b_s34b_b79k")["path"]
    server.requests.clear()
    assert run_json("show", "ViT-B-32", "laion2b_s34b_b79k")["cached"] == path
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["show", "ViT-B-33"], 64, "Did you mean ViT-B-32?"),
        (["show", "ViT-B-32", "nothing"], 66, "laion2b_s34b_b79k"),
        (["pull", "nothing"], 64, "neither a file nor an address"),
        (["pull", "ViT-B-32", "nothing"], 66, "no pretrained weights"),
        (["pull", "hf-hub:../x"], 64, "not the name of a hub repository"),
        (["bundle", "ViT-B-32"], 64, "two or three arguments"),
        (["bundle", "ViT-B-33", "openai", "out"], 64, "Did you mean ViT-B-32?"),
        (["golden", "ViT-B-33", "out.json"], 64, "Did you mean ViT-B-32?"),
    ],
)
def test_errors_for_wrong_arguments(run, arguments, status, words):
    found, out, err = run(*arguments)
    assert (found, out) == (status, "")
    assert words in err
    assert "Traceback" not in err


# --- pull ---


def test_pull_by_tag(server, run, run_json):
    server.add_hub_file(LAION, SAFE, CONTENT)
    told = run_json("pull", "ViT-B-32", "laion2b_s34b_b79k")
    assert (told["bytes"], told["sha256"], told["licence"]) == (len(CONTENT), SHA256, "MIT")
    assert told["source"] == f"hf-hub:{LAION}/{SAFE}"
    _, out, _ = run("pull", "ViT-B-32", "laion2b_s34b_b79k")
    assert out.splitlines()[0] == told["path"]
    assert f"sha256 {SHA256}" in out


def test_pull_by_address_into_a_directory(server, run_json, tmp_path):
    server.add("/w.safetensors", CONTENT)
    told = run_json("pull", f"{server.url}/w.safetensors", "--cache-dir", tmp_path / "c", "--sha256", SHA256)
    assert told["path"] == str(tmp_path / "c" / "w.safetensors")
    assert told["licence"] is None


def test_pull_from_the_publishers_address_through_a_mirror(server, run, monkeypatch):
    monkeypatch.setenv("CLIPCTL_MIRROR", server.url)
    server.add("/dl.fbaipublicfiles.com/MMPT/metaclip/b32_400m.pt", b"weights")
    status, out, _ = run("pull", "ViT-B-32", "metaclip_400m", "--from-url")
    assert status == 0
    assert "from https://dl.fbaipublicfiles.com/MMPT/metaclip/b32_400m.pt" in out
    assert "licence CC-BY-NC-4.0" in out


def test_pull_of_damaged_weights(server, run, tmp_path):
    server.add_hub_file(LAION, SAFE, CONTENT).content = b"damaged"
    status, out, err = run("pull", "ViT-B-32", "laion2b_s34b_b79k")
    assert (status, out) == (65, "")
    assert "Nothing was kept" in err
    assert not [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_pull_without_permission(server, run):
    server.add_hub_file(LAION, SAFE, CONTENT)
    server.files[f"/{LAION}/resolve/main/{SAFE}"].faults = [Fault(status=403, head_too=True)]
    status, _, err = run("pull", "ViT-B-32", "laion2b_s34b_b79k", "--json")
    assert status == 77
    assert json.loads(err)["error"]["code"] == 77


def test_pull_offline(run, monkeypatch):
    monkeypatch.setenv("CLIPCTL_OFFLINE", "1")
    status, _, err = run("pull", "RN50", "openai")
    assert status == 66
    assert "CLIPCTL_OFFLINE" in err


# --- bundle ---


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def test_bundle_of_published_weights(server, run, run_json, tmp_path):
    server.add_hub_file("timm/vit_base_patch32_clip_224.openai", SAFE, CONTENT)
    out = tmp_path / "bundle"
    told = run_json("bundle", "ViT-B-32", "openai", out)
    assert files_of(out) == sorted(
        [
            *("LICENCE.md", "SHA256SUMS", "manifest.json", "merges.txt", "open_clip_config.json"),
            *("open_clip_model.safetensors", "tokenizer_config.json", "vocab.json"),
        ]
    )
    assert (out / SAFE).read_bytes() == CONTENT
    config = json.loads((out / "open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] is True, "the weights need it"
    assert config["preprocess_cfg"]["interpolation"] == "bicubic"
    assert "MIT" in (out / "LICENCE.md").read_text()
    assert told["licence"] == "MIT"
    assert json.loads((out / "manifest.json").read_text())["files"][SAFE]["sha256"] == SHA256
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, check=True, capture_output=True)
    assert len((out / "SHA256SUMS").read_text().splitlines()) == len(files_of(out)) - 1


def test_bundle_never_overwrites_and_leaves_nothing_half_done(server, run, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    server.add_hub_file(LAION, SAFE, CONTENT)
    status, _, err = run("bundle", "ViT-B-32", "laion2b_s34b_b79k", tmp_path / "there")
    assert status == 73
    assert "exists already" in err
    (tmp_path / "broken.pt").write_bytes(b"not weights")

    def damaged(module, arguments):
        Path(arguments[1]).write_bytes(b"half")
        raise CorruptError(f"{arguments[0]} is damaged.")

    monkeypatch.setattr("clipctl.bundlesources.run_trainer", damaged)
    (tmp_path / "outs").mkdir()
    status, _, err = run("bundle", "ViT-B-32", tmp_path / "broken.pt", tmp_path / "outs" / "new", "--no-tokenizer")
    assert status == 65
    assert files_of(tmp_path / "outs") == []


def test_bundle_of_a_hub_repository_keeps_its_configuration_and_asks_for_the_licence(server, run, tmp_path):
    config = {"model_cfg": {"embed_dim": 1, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {"mean": [0, 0, 0]}}
    server.add_hub_file("org/model", SAFE, CONTENT)
    server.add_hub_file("org/model", "open_clip_config.json", json.dumps(config).encode(), large=False)
    server.add_hub_info("org/model", [SAFE], "apache-2.0")
    status, out, _ = run("bundle", "hf-hub:org/model", tmp_path / "out", "--no-tokenizer")
    assert status == 0
    assert "licence apache-2.0" in out
    assert json.loads((tmp_path / "out" / "open_clip_config.json").read_text()) == config
    assert "model card of org/model" in (tmp_path / "out" / "LICENCE.md").read_text()


def test_bundle_takes_the_tokenizer_that_lies_with_the_weights(server, run, tmp_path):
    text = {"hf_tokenizer_name": "org/elsewhere"}
    config = {"model_cfg": {"embed_dim": 1, "vision_cfg": {}, "text_cfg": text}}
    files = {
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{ }",
        "open_clip_config.json": json.dumps(config).encode(),
    }
    server.add_hub_file("org/model", SAFE, CONTENT)
    for name, content in files.items():
        server.add_hub_file("org/model", name, content, large=False)
    assert run("bundle", "hf-hub:org/model", tmp_path / "out")[0] == 0
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(files_of(tmp_path / "out"))
    # From the bundle itself, offline, the same again.
    status, _, err = run("bundle", f"local-dir:{tmp_path / 'out'}", tmp_path / "again")
    assert status == 0, err
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")
    assert "not known" in (tmp_path / "again" / "LICENCE.md").read_text()


def test_bundle_without_its_tokenizer_is_an_error_with_a_way_out(server, run, tmp_path):
    server.add_hub_file("timm/ViT-B-16-SigLIP", SAFE, CONTENT)
    status, _, err = run("bundle", "ViT-B-16-SigLIP", "webli", tmp_path / "out")
    assert status == 66
    assert "--no-tokenizer" in err
    status, _, _ = run("bundle", "ViT-B-16-SigLIP", "webli", tmp_path / "out", "--no-tokenizer")
    assert status == 0


def test_bundle_of_a_file_alone_asks_for_the_model(run, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(CONTENT)
    status, _, err = run("bundle", tmp_path / "w.safetensors", tmp_path / "out")
    assert status == 64
    assert "MODEL WEIGHTS OUT" in err
    status, _, _ = run("bundle", "ViT-B-32", tmp_path / "w.safetensors", tmp_path / "out")
    assert status == 0


def test_bundle_of_what_is_not_there(run, tmp_path):
    status, _, err = run("bundle", tmp_path / "none", tmp_path / "out")
    assert status in (64, 66)
    assert "Traceback" not in err


def test_clips_own_tokenizer_in_the_format_of_transformers():
    files = clip_tokenizer_files()
    ids = json.loads(files["vocab.json"])
    assert len(ids) == 49408
    assert (ids["<|startoftext|>"], ids["<|endoftext|>"]) == (49406, 49407)
    assert (ids["!"], ids["a</w>"], ids["photo</w>"]) == (0, 320, 1125)
    lines = files["merges.txt"].decode().splitlines()
    assert lines[0] == "#version: 0.2"
    assert len(lines) == 1 + 48894
    assert all("".join(line.split(" ")) in ids for line in lines[1:])


# --- golden ---


def test_golden_outputs_are_written_by_a_process_of_the_trainer(run, tmp_path):
    path = tmp_path / "golden.json"
    status, out, err = run("golden", "ViT-tiny-8-32", path)
    assert status == 0, err
    assert out == f"{path} written: 7.78 M parameters\n"
    assert json.loads(path.read_text())["state_dict"]["tensors"] == 98


def test_golden_options_reach_the_process(run, tmp_path, monkeypatch):
    called = []

    def process(module, arguments):
        called.append((module, arguments))
        return {"model": "ViT-tiny-8-32", "tolerance": 1e-5}

    monkeypatch.setattr("clipctl.trainerprocess.run_trainer", process)
    _, out, _ = run("golden", "ViT-tiny-8-32", "g.json", "--check")
    assert called == [("clip_trainer.golden", ["--check", "--", "ViT-tiny-8-32", "g.json"])]
    assert out == "OK: ViT-tiny-8-32 is as g.json says, within 1e-05\n"


def test_work_for_torch_without_torch(run, tmp_path, monkeypatch):
    monkeypatch.setattr("clipctl.trainerprocess.importlib.util.find_spec", lambda name: None)
    status, _, err = run("golden", "ViT-tiny-8-32", tmp_path / "g.json")
    assert status == 66
    assert "clipctl[trainer]" in err


def test_a_process_that_dies_without_an_answer_is_a_bug(run, tmp_path, monkeypatch):
    monkeypatch.setattr("clipctl.trainerprocess.sys.executable", "/bin/false")
    status, _, err = run("golden", "ViT-tiny-8-32", tmp_path / "g.json")
    assert status == 70
    assert "ended with status 1" in err


def test_the_command_line_imports_no_torch_for_all_this():
    code = (
        "import sys\nfrom clipctl.cli import main\n"
        "main(['models', 'list'])\nmain(['models', 'show', 'RN50', 'openai'])\n"
        "assert not {'torch', 'numpy', 'urllib3'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""Bundles: what is in them, from runs and other sources, all or nothing; and the processes that write weights."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from clip_testkit.fetching import fetch_settings
from clip_testkit.safetensorsfiles import read_tensors
from clip_testkit.weightserver import Fault, serving
from clip_trainer.pretrained import registry
from clip_trainer.pretrained.fetching import WEIGHTS, Fetcher
from clip_trainer.pretrained.tokenizerfiles import tokenizer_files
from clipctl import bundlesources, exportcheckpoint
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import (
    CannotCreateError,
    CorruptError,
    InternalError,
    MissingError,
    SpecError,
    UnavailableError,
)
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore
from clipctl.modelbundle import Ingredients, config_of, tokenizer_of, write_bundle
from clipctl.safetensorsfile import Tensor, write_chunks
from clipctl.trainerprocess import run_trainer

SAFE, PICKLED = WEIGHTS
CONFIG = {"model_cfg": {"embed_dim": 4, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}


def safetensors(**values):
    tensors = {name: Tensor("U8", (len(data),), memoryview(data)) for name, data in values.items()}
    return b"".join(write_chunks(tensors, {"format": "pt"}))


@pytest.fixture(name="server")
def _server():
    with serving() as server:
        yield server


@pytest.fixture(name="fetcher")
def _fetcher(server, tmp_path):
    return Fetcher(fetch_settings(tmp_path / "caches", server))


def parts_of(**changes):
    content = {
        "model": "m",
        "source": "somewhere",
        "write_weights": lambda path: path.write_bytes(safetensors(a=b"weights")),
        "config": CONFIG,
    }
    return Ingredients(**{**content, **changes})


# --- writing ---


def test_a_bundle_has_a_manifest_and_sums_of_everything(tmp_path):
    manifest = write_bundle(parts_of(tag="t", tokenizer={"vocab.json": b"{}"}), str(tmp_path / "deep" / "out"))
    out = tmp_path / "deep" / "out"
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert set(manifest["files"]) == {"LICENCE.md", "open_clip_config.json", SAFE, "vocab.json"}
    assert manifest["files"]["vocab.json"] == {"bytes": 2, "sha256": sha256_hex(b"{}")}
    assert (manifest["model"], manifest["tag"], manifest["source"]) == ("m", "t", "somewhere")
    names = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert names == {*manifest["files"], "manifest.json"}
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    assert os.stat(out).st_mode & 0o777 == 0o755


def test_a_changed_bundle_does_not_pass_its_own_check(tmp_path):
    write_bundle(parts_of(), str(tmp_path / "out"))
    (tmp_path / "out" / SAFE).write_bytes(b"changed")
    done = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path / "out", check=False, capture_output=True
    )
    assert done.returncode == 1


def test_the_same_parts_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_bundle(parts_of(), str(tmp_path / name))
    assert (tmp_path / "one" / "SHA256SUMS").read_bytes() == (tmp_path / "two" / "SHA256SUMS").read_bytes()


@pytest.mark.parametrize("error", [CorruptError("bad."), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_if_it_fails(tmp_path, error):
    def fail(path):
        path.write_bytes(b"half")
        raise error

    expected = CannotCreateError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_bundle(parts_of(write_weights=fail), str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CannotCreateError, match="cannot write"):
        write_bundle(parts_of(), str(tmp_path / "file" / "out"))


@pytest.mark.parametrize(
    ("licence", "basis", "words"),
    [
        ("MIT", "LICENSE of the repository", "under MIT, according to: LICENSE of the repository."),
        ("MIT", None, "under MIT."),
        (None, None, "not known to clipctl. Read the model card"),
    ],
)
def test_the_licence_is_told_as_far_as_it_is_known(tmp_path, licence, basis, words):
    write_bundle(parts_of(licence=licence, licence_basis=basis), str(tmp_path / "out"))
    text = (tmp_path / "out" / "LICENCE.md").read_text()
    assert words in text
    assert "somewhere" in text
    assert "tokenizer" not in text


# --- configuration ---


@pytest.mark.parametrize(
    ("model", "tag", "quick"),
    [("ViT-B-32", "openai", True), ("ViT-B-32", "laion2b_s34b_b79k", None), ("ViT-H-14-quickgelu", "dfn5b", True)],
)
def test_the_activation_is_that_of_the_weights(model, tag, quick):
    config = config_of({"embed_dim": 1}, registry.entry(model, tag))
    assert config["model_cfg"].get("quick_gelu") is quick


def test_preprocessing_is_that_of_the_weights():
    config = config_of({}, registry.entry("ViT-B-16-SigLIP", "webli"))
    assert config["preprocess_cfg"] == {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    unknown = config_of({"a": 1}, None)
    assert unknown["model_cfg"] == {"a": 1}
    assert unknown["preprocess_cfg"] == config_of({}, registry.entry("ViT-B-32", "openai"))["preprocess_cfg"]


def test_the_callers_configuration_is_not_changed():
    mine = {"embed_dim": 1}
    config_of(mine, registry.entry("RN50", "openai"))
    assert mine == {"embed_dim": 1}


# --- tokenizers ---


def test_a_tokenizer_of_the_hub(server, fetcher):
    for name in ("tokenizer.json", "special_tokens_map.json", "config.json"):
        server.add_hub_file("roberta-base", name, name.encode(), large=False)
    found = tokenizer_files(fetcher, "roberta-base")
    assert set(found) == {"tokenizer.json", "special_tokens_map.json", "config.json"}
    server.add_hub_file("roberta-base", "tokenizer_config.json", b"{}", large=False)
    assert set(tokenizer_files(fetcher, "roberta-base")) == {
        *("tokenizer.json", "special_tokens_map.json", "tokenizer_config.json")
    }, "config.json is only needed where nothing else tells the family"


def test_a_tokenizer_in_a_folder(fetcher, tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"x")
    assert tokenizer_files(fetcher, str(tmp_path)) == {"spiece.model": tmp_path / "spiece.model"}


def test_settings_alone_are_no_tokenizer(server, fetcher):
    server.add_hub_file("org/t", "tokenizer_config.json", b"{}", large=False)
    with pytest.raises(MissingError, match="no files of one"):
        tokenizer_files(fetcher, "org/t")


def test_a_tokenizer_that_may_not_be_read_is_no_missing_one(server, fetcher):
    server.add_hub_file("org/t", "tokenizer.json", b"{}", large=False)
    server.files["/org/t/resolve/main/tokenizer.json"].faults = [
        Fault(status=404, headers={"X-Error-Code": "RepoNotFound"}, head_too=True)
    ]
    with pytest.raises(MissingError, match="no such repository"):
        tokenizer_files(fetcher, "org/t")


def test_a_tokenizer_offline_comes_from_the_cache(server, fetcher, tmp_path):
    server.add_hub_file("org/t", "vocab.txt", b"x", large=False)
    tokenizer_files(fetcher, "org/t")
    offline = Fetcher(fetch_settings(tmp_path / "caches", server, offline=True))
    assert set(tokenizer_files(offline, "org/t")) == {"vocab.txt"}
    with pytest.raises(MissingError):
        tokenizer_files(offline, "org/other")


def test_which_tokenizer_a_configuration_asks_for(server, fetcher):
    server.add_hub_file("org/t", "vocab.txt", b"x", large=False)
    named = {"model_cfg": {"text_cfg": {"hf_tokenizer_name": "org/t"}}}
    assert set(tokenizer_of(named, fetcher)) == {"vocab.txt"}
    assert set(tokenizer_of(CONFIG, fetcher)) == {"vocab.json", "merges.txt", "tokenizer_config.json"}


# --- sources ---


def commit(store, step, content):
    checkpoint = CheckpointId(step, 1)
    name = "weights-00000-of-00001.safetensors"
    store.write(layout.checkpoint_prefix(checkpoint) + name, content)
    manifest = Manifest((StoredObject.of(name, content),), {"open_clip_config": CONFIG}).to_bytes()
    store.write(f"{layout.checkpoint_prefix(checkpoint)}manifest.json", manifest)
    record = CommitRecord(
        run="demo", step=step, incarnation=1, attempt=1, samples_consumed=step, world_size=1,
        manifest_sha256=sha256_hex(manifest), bytes_total=len(content), spec_digest="d",
        training_digest="t", parent=None, created_at=1000.0, writer="test",
    )  # fmt: skip
    store.create(layout.commit_key(checkpoint), record.to_bytes())
    return layout.checkpoint_prefix(checkpoint) + name


def test_a_run_gives_its_newest_checkpoint_that_verifies(fetcher, tmp_path, capsys):
    root = tmp_path / "runs" / "demo"
    store = LocalStore(root)
    commit(store, 1, safetensors(a=b"old"))
    damaged = commit(store, 2, safetensors(a=b"new"))
    store.write(damaged, safetensors(a=b"bad"))
    parts = bundlesources.from_run(str(root), tmp_path / "scratch", fetcher)
    assert "step-00000001" in parts.source
    assert "REJECTED step-00000002" in capsys.readouterr().err
    write_bundle(parts, str(tmp_path / "out"))
    tensors = read_tensors((tmp_path / "out" / SAFE).read_bytes())
    assert bytes(tensors["a"].data) == b"old"
    assert json.loads((tmp_path / "out" / "open_clip_config.json").read_text()) == CONFIG


def test_a_run_without_checkpoints(fetcher, tmp_path):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    with pytest.raises(MissingError, match="no checkpoint"):
        bundlesources.from_run(str(tmp_path / "runs" / "demo"), tmp_path / "scratch", fetcher)


def test_a_directory_without_a_configuration_may_be_a_run(fetcher, tmp_path):
    assert bundlesources.from_location(str(tmp_path), fetcher) is None
    assert bundlesources.from_location("s3://bucket/runs/demo", fetcher) is None
    assert bundlesources.from_location("just-a-name", fetcher) is None
    (tmp_path / "run.yaml").write_text("")
    assert bundlesources.from_location(str(tmp_path / "run.yaml"), fetcher) is None


@pytest.mark.parametrize("source", ["https://host/weights.pt", "s3://bucket/weights.safetensors"])
def test_weights_alone_do_not_say_their_model(fetcher, source):
    with pytest.raises(SpecError, match="what model it is for"):
        bundlesources.from_location(source, fetcher)


@pytest.mark.parametrize("content", ["no json", "[]", "{}", '{"model_cfg": 1}'])
def test_configurations_that_are_none(fetcher, tmp_path, content):
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(CorruptError, match="not a model configuration"):
        bundlesources.from_location(str(tmp_path), fetcher)


def test_a_directory_is_named_by_its_folder(fetcher, tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    (folder / SAFE).write_bytes(safetensors(a=b"x"))
    parts = bundlesources.from_location(f"local-dir:{folder}", fetcher, tokenizer=False)
    assert (parts.model, parts.licence, parts.tokenizer) == ("my-model", None, {})


def test_the_model_card_is_asked_where_the_registry_does_not_know(server, fetcher):
    server.add_hub_file("jienengchen/ViTamin-S", "pytorch_model.safetensors", safetensors(a=b"x"))
    server.add_hub_info("jienengchen/ViTamin-S", [], "apache-2.0")
    parts = bundlesources.from_weights("ViTamin-S", "datacomp1b", fetcher, tokenizer=False)
    assert (parts.licence, parts.licence_basis) == ("apache-2.0", "model card of jienengchen/ViTamin-S")


def test_a_model_card_that_cannot_be_read_is_no_obstacle(server, fetcher):
    server.add_hub_file("jienengchen/ViTamin-S", "pytorch_model.safetensors", safetensors(a=b"x"))
    parts = bundlesources.from_weights("ViTamin-S", "datacomp1b", fetcher, tokenizer=False)
    assert (parts.licence, parts.licence_basis) == (None, None)


def test_the_model_card_is_not_asked_where_the_registry_knows(server, fetcher):
    server.add_hub_file("timm/resnet50_clip.openai", SAFE, safetensors(a=b"x"))
    assert bundlesources.from_weights("RN50", "openai", fetcher, tokenizer=False).licence == "MIT"
    assert not [request for request in server.requests if request.path.startswith("/api")]


def test_other_formats_are_converted_by_a_process(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(bundlesources, "run_trainer", lambda module, arguments: called.append((module, arguments)))
    bundlesources.weights_writer(Path("w.pt"))(Path("out.safetensors"))
    assert called == [("clip_trainer.pretrained.to_safetensors", ["w.pt", "out.safetensors"])]
    (tmp_path / "w.safetensors").write_bytes(b"as it is")
    bundlesources.weights_writer(tmp_path / "w.safetensors")(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"as it is"
    assert len(called) == 1


# --- processes of the trainer ---


@pytest.fixture(name="process")
def _process(tmp_path, monkeypatch):
    """Run a module with the given code instead of the trainer's."""

    def process(code, *arguments):
        (tmp_path / "pretended.py").write_text(f"import json, sys\n{code}\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return run_trainer("pretended", list(arguments))

    return process


def test_the_answer_is_the_last_line(process):
    assert process("print('noise')\nprint(json.dumps({'result': {'got': sys.argv[1:]}}))", "a", "--b") == {
        "got": ["a", "--b"]
    }


def test_an_error_comes_back_as_its_class(process):
    error = {"problem": "slow.", "hint": "Wait.", "code": 69}
    with pytest.raises(UnavailableError, match="slow") as caught:
        process(f"print(json.dumps({{'error': {error!r}}})); sys.exit(69)")
    assert (caught.value.problem, caught.value.hint) == ("slow.", "Wait.")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('oh')", "ValueError: oh"),
        ("sys.exit(3)", "status 3"),
        ("print('no json')", "status 0"),
        ("print('[1]')", "status 0"),
        ("import os; os.kill(os.getpid(), 9)", "status -9"),
    ],
)
def test_no_answer_is_a_bug(process, code, words):
    with pytest.raises(InternalError, match=words):
        process(code)


def test_the_process_cannot_wait_for_the_terminal(process):
    assert process("print(json.dumps({'result': {'read': sys.stdin.read()}}))") == {"read": ""}


def test_bundle_file_names_are_those_of_exports():
    assert (exportcheckpoint.WEIGHTS, exportcheckpoint.CONFIG) == (SAFE, "open_clip_config.json")

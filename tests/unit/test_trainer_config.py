"""The trainer's configuration file: what is taken, and how everything else is refused."""

import json

import pytest

from clip_trainer.config import load_config
from clipctl.contract.errors import MissingError, SpecError
from clipctl.contract.spec import RunSpec

SPEC = RunSpec.model_validate(
    {
        "name": "demo",
        "model": {"name": "ViT-tiny-8-32"},
        "data": {"train": "/data"},
        "train": {"global_batch": 8, "epochs": 1.5},
        "eval": {"zero_shot": {"data": "/e", "classes": ["a", "b"]}},
        "checkpoint": {"path": "/runs"},
        "scale": {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
    }
)


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "run.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_resolved_spec_comes_back_equal(write):
    config = load_config(write({"spec": SPEC.resolved(), "spec_digest": "abc"}))
    assert config.spec == SPEC
    assert (config.spec_digest, config.attempt) == ("abc", 1)


def test_a_missing_digest_is_computed(write):
    assert load_config(write({"spec": SPEC.resolved()})).spec_digest == SPEC.digest()


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("17", 17)])
def test_the_attempt_comes_from_the_environment(write, monkeypatch, text, number):
    monkeypatch.setenv("CLIPCTL_ATTEMPT", text)
    assert load_config(write({"spec": SPEC.resolved()})).attempt == number


@pytest.mark.parametrize("text", ["0", "-1", "two", "", "1.5", "²"])
def test_a_wrong_attempt_is_refused(write, monkeypatch, text):
    monkeypatch.setenv("CLIPCTL_ATTEMPT", text)
    with pytest.raises(SpecError, match="CLIPCTL_ATTEMPT"):
        load_config(write({"spec": SPEC.resolved()}))


def test_no_such_file(tmp_path):
    with pytest.raises(MissingError, match=r"nothing\.json does not exist"):
        load_config(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "[]",
        "null",
        "{}",
        '{"spec": null}',
        '{"spec": {}}',
        {"spec": {**SPEC.resolved(), "surprise": 1}},
        {"spec": {**SPEC.resolved(), "version": 2}},
        {"spec": {**SPEC.resolved(), "name": "Not A Name"}},
        {"spec": {**SPEC.resolved(), "train": {**SPEC.resolved()["train"], "steps": 5}}},
    ],
)
def test_anything_else_is_refused_with_a_remedy(write, content):
    with pytest.raises(SpecError, match="is not a resolved run specification") as caught:
        load_config(write(content))
    assert "clipctl version of the image" in caught.value.hint


def test_a_folder_is_not_a_traceback(tmp_path):
    with pytest.raises(MissingError, match="cannot be read"):
        load_config(tmp_path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError):
        load_config(path)

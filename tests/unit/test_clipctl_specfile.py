import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit.runyaml import MINIMAL, spec_with
from clipctl import models
from clipctl.contract.errors import ClipError, ExitCode, MissingError, SpecError
from clipctl.contract.spec import RunSpec
from clipctl.specfields import field_paths, nearest, section_at, suggest_field
from clipctl.specfile import load_spec, parse_spec
from clipctl.yamlsafe import DocumentError, load


def problems(text, *overrides):
    with pytest.raises(DocumentError) as caught:
        parse_spec(text.encode(), "run.yaml", overrides)
    assert caught.value.code == ExitCode.USAGE
    return [str(problem) for problem in caught.value.problems]


def test_the_minimal_file_loads_with_all_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    spec = load_spec(str(path))
    assert isinstance(spec, RunSpec)
    assert spec.name == "demo"
    assert spec.scale.nodes.max == 1


def test_a_missing_file_is_exit_66(tmp_path):
    with pytest.raises(MissingError) as caught:
        load_spec(str(tmp_path / "none.yaml"))
    assert caught.value.code == ExitCode.MISSING


WRONG = """\
name: Demo Run
model: {name: ViT-B-23}
data: {train: s3://b/d, threads: many}
train:
  steps: 1_000
  learning_rat: 3e-4
  schedule: cosin
  warmup_steps: 1e5
  weight_decay: -1
checkpoint: {path: 7, keep: 1}
scale: {nodes: {min: 4, max: 2}, resources: {cpu: 4, memory: 12GB}, volumes: [{claim: c, mount: rel}]}
env: {FOO: no, "1x": "y", BAR: true}
global_batch: 4
model_name: x
eval: {zero_shot: {data: x, classes: [a], templates: ["x"]}, retrieval: [1]}
"""

EXPECTED = """\
run.yaml:1:7 name: may hold only lower-case letters, digits and `-`, and starts with a letter: 'Demo Run'
run.yaml:2:15 model.name: there is no model 'ViT-B-23'; did you mean `ViT-B-32`?
run.yaml:3:34 data.threads: should be a whole number, not 'many'
run.yaml:4:1 train.global_batch: is required
run.yaml:5:10 train.steps: should be a whole number, not '1_000'; write plain digits, without quotes, `_`, `:` or \
leading zeros
run.yaml:6:3 train.learning_rat: is not a field; did you mean `learning_rate`?
run.yaml:7:13 train.schedule: is 'cosin', should be cosine, constant, constant-cooldown, wsd or none; \
did you mean `cosine`?
run.yaml:8:17 train.warmup_steps: should be a whole number, not 100000.0
run.yaml:9:17 train.weight_decay: should be greater than or equal to 0, not -1
run.yaml:10:20 checkpoint.path: should be text, not 7; put it in quotes
run.yaml:10:29 checkpoint.keep: should be greater than or equal to 2, not 1
run.yaml:11:22 scale.nodes.min: min (4) is greater than max (2)
run.yaml:11:51 scale.resources.cpu: should be text, not 4; put it in quotes
run.yaml:11:62 scale.resources.memory: is not a Kubernetes quantity such as 500m, 4 or 16Gi: '12GB'
run.yaml:11:97 scale.volumes[0].mount: is not an absolute path: 'rel'
run.yaml:12:16 env.1x: is not the name of an environment variable: '1x'
run.yaml:12:32 env.BAR: should be text, not true; put it in quotes
run.yaml:13:1 global_batch: is not a field; did you mean `train.global_batch`?
run.yaml:14:1 model_name: is not a field; did you mean `model`?
run.yaml:15:38 eval.zero_shot.classes: needs at least 2 names
run.yaml:15:54 eval.zero_shot.templates: template 'x' has no {} for the class name
run.yaml:15:73 eval.retrieval: should be a mapping with fields, not a list
"""


def without_position(line):
    return line.partition(" ")[2]


def test_all_problems_at_once_one_line_each_in_file_order():
    assert problems(WRONG) == EXPECTED.splitlines()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs=1", "train: give exactly one of train.steps and train.epochs"),
        ("scale.nodes.max=100", "train.global_batch: train.global_batch (64) cannot be shared by 100 ranks"),
        ("data.lanes=7", "data.lanes: data.lanes (7) does not divide train.global_batch (64)"),
        ("env.PYTHONPATH=x", "env.PYTHONPATH: PYTHONPATH is set by clipctl and cannot be overridden"),
        ("env.LD_PRELOAD=x", "env.LD_PRELOAD: LD_PRELOAD is set by clipctl and cannot be overridden"),
        ("env.MY_TOKEN=hunter2", "env.MY_TOKEN: MY_TOKEN looks like a credential"),
        ("data.train=s3://a:b@c/d", "data.train: the URL of data.train carries credentials"),
        ("scale.resources.gpu=3", "scale.resources.gpu: scale.resources.gpu (3) must be 0 or equal"),
        ("version=2", "version: is 2, should be 1"),
        ("name=", "name: should be text, not empty"),
        ("train=3", "train: should be a mapping with fields, not 3"),
        ("scale.tolerations.0.key=x", "scale.tolerations: should be a list, not a mapping"),
        ("train.learning_rate=.inf", "train.learning_rate: should be a number, not '.inf'"),
        ("train.steps=12:30", "train.steps: should be a whole number, not '12:30'; write plain digits"),
        ("train.steps=0", "train.steps: should be greater than or equal to 1, not 0"),
        ("train.steps=999999999999999999", "train.steps: should be less than or equal to"),
        ("name=" + "a" * 45, "name: should have at most 44 characters, has 45"),
        ("train.steps=true", "train.steps: should be a whole number, not true"),
    ],
)
def test_checks_point_at_the_field_they_are_about(override, expected):
    found = problems(MINIMAL, override)
    assert any(without_position(line).startswith(expected) or expected in line for line in found)


def test_set_overrides_creates_sections_and_says_so_in_problems():
    spec = spec_with("train.steps=7", "train.learning_rate=1e-3", "scale.nodes={min: 2, max: 4}", "env.A=b=c")
    assert (spec.train.steps, spec.train.learning_rate, spec.scale.nodes.max) == (7, 1e-3, 4)
    assert spec.env == {"A": "b=c"}
    assert problems(MINIMAL, "train.steps=x") == ["--set train.steps: should be a whole number, not 'x'"]


def test_set_null_takes_a_field_back():
    assert spec_with("train.steps=null", "train.epochs=2").train.epochs == 2.0


def test_set_reaches_into_lists():
    text = MINIMAL + "scale: {volumes: [{claim: a, mount: /data}]}\n"
    spec = parse_spec(text.encode(), "run.yaml", ["scale.volumes.0.claim=b"])
    assert spec.scale.volumes[0].claim == "b"
    (found,) = problems(text, "scale.volumes.4.claim=b")
    assert found == "--set scale.volumes.4: scale.volumes has no element '4'"


@pytest.mark.parametrize("override", ["train.steps", "=3", "train..steps=3", ".=1"])
def test_malformed_overrides_are_usage_errors(override):
    with pytest.raises(SpecError, match=r"is not of the form field\.name=value"):
        spec_with(override)


def test_yaml_errors_in_overrides_name_the_override():
    assert problems(MINIMAL, "train.steps=[1\n")[0].startswith("--set train.steps:2:1: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "run.yaml:1:1: the file is empty"),
        ("# only a comment\n", "run.yaml:1:1: the file is empty"),
        ("- a\n", "run.yaml:1:1: should be a mapping of fields such as `name: my-run`"),
        ("just text\n", "run.yaml:1:1: should be a mapping of fields such as `name: my-run`"),
    ],
)
def test_files_that_are_no_mapping(text, expected):
    assert problems(text) == [expected]


def test_secret_values_are_not_echoed():
    found = problems(MINIMAL + "secrets: {AWS_SECRET_ACCESS_KEY: wJalrXUtnFEMI}\n")
    assert "wJalrXUtnFEMI" not in str(found)
    assert found == ["run.yaml:11:34 secrets.AWS_SECRET_ACCESS_KEY: should be a mapping with fields, not ***"]


def test_credentials_in_urls_are_not_echoed():
    assert "hunter2" not in str(problems(MINIMAL + "image: [https://u:hunter2@x/y]\n", "name=https://u:hunter2@h"))


def test_the_number_of_problems_shown_is_bounded():
    found = problems(MINIMAL + "".join(f"x{i}: 1\n" for i in range(500)))
    assert len(found) == 51
    assert found[-1].endswith("and 450 more problems from here on")


def test_model_names_come_without_torch():
    assert "ViT-B-32" in models.model_names()
    assert models.canonical_name("ViT-B/32") == "ViT-B-32"
    assert spec_with("model.name=ViT-B/32").model.name == "ViT-B/32"


def test_without_the_trainer_any_model_name_passes(monkeypatch):
    monkeypatch.setattr(models, "model_names", tuple)
    assert spec_with("model.name=My-Model").model.name == "My-Model"


def test_model_names_without_the_trainer_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "clip_trainer", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert models.model_names() == ()


def test_suggestions():
    assert nearest("LEARNING_RATE", ["learning_rate", "beta1"]) == "learning_rate"
    assert nearest("zzz", ["learning_rate"]) == ""
    assert suggest_field(("train", "stpes")) == "steps"
    assert suggest_field(("grad_clip_norm",)) == "train.grad_clip_norm"
    assert suggest_field(("scale", "tolerations", 0, "efect")) == "effect"
    assert suggest_field(("secrets", "X", "kye")) == "key"
    assert suggest_field(("nowhere", "x", "kye")) == ""


def test_sections_are_found_through_optionals_lists_and_mappings():
    assert section_at(("eval", "zero_shot")).__name__ == "ZeroShotSection"
    assert section_at(("scale", "volumes", 3)).__name__ == "VolumeSection"
    assert section_at(("secrets", "ANY")).__name__ == "SecretRef"
    assert section_at(("train", "steps")) is None
    assert section_at(("none",)) is None


def test_every_field_has_a_path():
    paths = set(field_paths())
    assert {"train.steps", "scale.resources.cpu", "eval.zero_shot.data", "env", "name"} <= paths


def failure(call):
    try:
        call()
    except ClipError as error:
        return error
    return None


_SCALARS = st.sampled_from(["1", "-1", "1e5", "abc", "true", "null", "[1, {a: b}]", "{}", "''", '"\\e[31m"', "é", "~"])
_FIELDS = st.sampled_from([*field_paths(), "train", "scale", "nope", "train.nope", "data.train.x"])


@given(st.lists(st.tuples(_FIELDS, _SCALARS), max_size=4))
def test_any_overrides_give_a_spec_or_a_clip_error(pairs):
    error = failure(lambda: spec_with(*(f"{field}={value}" for field, value in pairs)))
    assert error is None or (error.code == ExitCode.USAGE and "\x1b" not in str(error))


@given(st.text(alphabet="nametrindl:\n -[]{}0159.'\"&*!_e", max_size=150))
def test_fuzzed_files_give_a_spec_or_a_clip_error(text):
    error = failure(lambda: parse_spec((MINIMAL + text).encode(), "run.yaml"))
    assert error is None or error.code == ExitCode.USAGE


@given(st.binary(max_size=200))
def test_binary_files_give_a_clip_error(data):
    with pytest.raises(ClipError):
        parse_spec(data, "run.yaml")


def test_a_document_of_a_valid_spec_is_a_fixed_point():
    spec = spec_with("scale.nodes={min: 1, max: 2}")
    import json

    again = load(json.dumps(spec.resolved()).encode(), "f").data
    assert RunSpec.model_validate(again) == spec


UNIONS = """\
name: demo
model: {name: ViT-B-32, image_size: %s}
data: {train: "s3://b/d", augment: {scale: %s}}
train: {global_batch: 4, steps: 1, optimizer_options: {a: %s}}
checkpoint: {path: "s3://b/r", keep: %s}
eval: {zero_shot: {data: "s3://x", classes: %s, templates: %s}}
"""


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        (0, "[224]", "model.image_size: should have at least 2 items, has 1"),
        (0, "big", "model.image_size: should be a whole number or a list, not 'big'"),
        (0, "0", "model.image_size: should be greater than or equal to 1, not 0"),
        (1, "[0.5, 2]", "data.augment.scale[1]: should be less than or equal to 1, not 2"),
        (1, "[0.5, 0.6, 0.7]", "data.augment.scale: should have at most 2 items, has 3"),
        (
            2,
            "[1]",
            "train.optimizer_options.a: should be true or false or a whole number or a number or text, not a list",
        ),
        (3, "1", "checkpoint.keep: should be greater than or equal to 2, not 1"),
        (3, "many", "checkpoint.keep: should be a whole number or a mapping with fields, not 'many'"),
        (3, "{last: 1}", "checkpoint.keep.last: should be greater than or equal to 2, not 1"),
        (3, "{lst: 3}", "checkpoint.keep.lst: is not a field; did you mean `last`?"),
        (4, "7", "eval.zero_shot.classes: should be a list or `imagenet` or text, not 7"),
        (4, "[a, 5]", "eval.zero_shot.classes[1]: should be text, not 5; put it in quotes"),
        (
            5,
            "imagnet",
            "eval.zero_shot.templates: is 'imagnet', should be imagenet or simple or a list or a .json file; "
            "did you mean `imagenet`?",
        ),
    ],
)
def test_a_value_that_is_none_of_several_kinds_gets_one_line(place, value, line):
    values = ["224", "[0.5, 1]", "1", "3", "imagenet", "simple"]
    parse_spec((UNIONS % tuple(values)).encode(), "run.yaml")
    values[place] = value
    assert [without_position(problem) for problem in problems(UNIONS % tuple(values))] == [line]


@pytest.mark.parametrize("name", ["local-dir:/models/mine", "hf-hub:org/name", "s3://bucket/model"])
def test_a_model_with_a_scheme_is_looked_up_later(name):
    assert spec_with(f"model.name={name}").model.name == name


def test_a_model_with_a_configuration_of_its_own_has_any_name():
    assert spec_with("model.name=mine", "model.config=mine.json").model.name == "mine"
    with pytest.raises(DocumentError, match="no model 'mine'"):
        spec_with("model.name=mine")

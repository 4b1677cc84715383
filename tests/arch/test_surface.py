"""The frozen surface: commands, flags, exit codes, labels, annotations, metrics and the format of run.yaml.

A failure here means that something users depend on has changed. If that is intended: say so in CHANGELOG.md, then run
`python tests/arch/surface.py --update`.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from clipctl.contract import metric_names, names
from clipctl.contract.errors import ClipError, ExitCode


def load_surface():
    spec = importlib.util.spec_from_file_location("clipctl_surface", Path(__file__).with_name("surface.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SURFACE = load_surface()


@pytest.fixture(scope="module")
def frozen():
    return json.loads(SURFACE.SURFACE_FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def current():
    return json.loads(SURFACE.render())


def differences(frozen, current):
    if not isinstance(frozen, dict):
        return [] if frozen == current else [f"  was {frozen!r}\n  now {current!r}"]
    found = [f"  gone: {name}" for name in frozen if name not in current]
    found += [f"  new:  {name}" for name in current if name not in frozen]
    found += [
        f"  {name}:\n    was {frozen[name]!r}\n    now {current[name]!r}"
        for name in frozen
        if name in current and frozen[name] != current[name]
    ]
    return found


SECTIONS = (
    "commands",
    "exit_codes",
    "permanent_exit_codes",
    "labels",
    "annotations",
    "reasons",
    "states",
    "causes",
    "environment",
    "ports",
    "metrics",
    "run_yaml",
    "run_yaml_digest",
)


def test_the_frozen_file_has_exactly_the_sections_that_are_compared(frozen, current):
    assert sorted(frozen) == sorted(current) == sorted(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_surface_is_unchanged(section, frozen, current):
    changed = differences(frozen[section], current[section])
    assert not changed, f"the {section} of clipctl changed ({__doc__.splitlines()[2]})\n" + "\n".join(changed)


def test_differences_tells_what_is_gone_new_and_changed():
    assert differences({"a": 1, "b": 2}, {"b": 3, "c": 4}) == [
        "  gone: a",
        "  new:  c",
        "  b:\n    was 2\n    now 3",
    ]
    assert differences({"a": 1}, {"a": 1}) == []
    assert differences([1], [2]) != []


def test_schema_paths_follow_references_lists_and_alternatives(current):
    fields = current["run_yaml"]
    assert json.loads(fields["train.learning_rate"])["default"] == 5e-4
    assert "eval.zero_shot|0.classes" in fields
    assert "scale.tolerations[].effect" in fields
    assert "secrets.*.key" in fields


def test_every_error_class_has_a_code_of_its_own():
    codes = [cls.default_code for cls in ClipError.__subclasses__()]
    assert len(codes) == len(set(codes))
    assert set(codes) <= set(ExitCode)


def test_labels_and_annotations_are_valid_kubernetes_names():
    for name, value in {**SURFACE.constants(names, ("LABEL_",)), **SURFACE.constants(names, ("ANNOTATION_",))}.items():
        prefix, _, rest = value.rpartition("/")
        assert prefix, name
        assert len(rest) <= 63, name
        assert rest.replace("-", "").replace(".", "").replace("_", "").isalnum(), name


def test_metric_names_follow_prometheus_conventions():
    for metric in (*metric_names.TRAINER_METRICS, *metric_names.OPERATOR_METRICS):
        assert metric.name.startswith("clip_"), metric
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric
        assert metric.help.endswith("."), metric
        assert "le" not in metric.labels, metric


def test_metric_names_are_unique():
    every = [m.name for m in (*metric_names.TRAINER_METRICS, *metric_names.OPERATOR_METRICS)]
    assert len(every) == len(set(every))

import json
import os
import stat

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.helmparity import MATRIX, NASTY, NASTY_ENV, helm_binary, rendered_by_both
from clip_testkit.runyaml import quoted, spec_with
from clipctl import render as rendering
from clipctl.bundle import chart_path
from clipctl.contract import names
from clipctl.contract.errors import ExitCode, InternalError, MissingError, UnavailableError
from clipctl.manifests import file_name, in_order, is_hook, parse_manifests, to_yaml
from clipctl.render import EmbeddedHelm, HelmBinary, choose_renderer, render, values_for
from clipctl.schemas import run_schema, schema_text, values_schema

ENV = NASTY_ENV


def job_of(objects):
    (job,) = [item for item in objects if item["kind"] == "PyTorchJob"]
    return job


def environment(job):
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def test_values_are_derived_from_the_spec_alone():
    spec = spec_with("scale.nodes.max=4", "scale.devices_per_node=2")
    values = values_for(spec, attempt=3)
    derived = values["derived"]
    assert derived["jobName"] == "demo-3"
    assert derived["rendezvousId"] == f"demo-{spec.digest()[:8]}-3"
    assert derived["maxWorld"] == 8
    assert derived["runRoot"] == "s3://bucket/runs/demo"
    assert json.loads(derived["config"]) == {"spec": spec.resolved(), "spec_digest": spec.digest()}
    assert values == values_for(spec, attempt=3)


def test_an_existing_service_account_is_used_and_not_created():
    derived = values_for(spec_with("scale.service_account=cloud"))["derived"]
    assert (derived["serviceAccount"], derived["createServiceAccount"]) == ("cloud", False)


def test_values_match_their_schema_and_nothing_else_does():
    schema = values_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    values = values_for(spec_with(*ENV, "scale.queue=q"))
    jsonschema.validate(values, schema)
    for broken in ({**values, "x": 1}, {"spec": values["spec"]}, {**values, "derived": {**values["derived"], "x": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def test_the_chart_carries_exactly_the_generated_schema():
    assert (chart_path("clip-run") / "values.schema.json").read_text() == schema_text(values_schema())


def test_the_run_schema_documents_every_field():
    schema = run_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    definitions = schema["definitions"]

    def documented(field):
        # A field that says just what its section says carries the text there only.
        section = definitions.get(field.get("$ref", "").rpartition("/")[2], {})
        return field.get("description") or section.get("description")

    fields = [item for section in (schema, *definitions.values()) for item in section["properties"].items()]
    assert len(fields) > 50
    assert [name for name, field in fields if not documented(field)] == []


def test_a_run_has_the_objects_the_cli_relies_on():
    objects = render(spec_with(), "ns", renderer=EmbeddedHelm())
    assert [item["kind"] for item in objects] == [
        "ServiceAccount",
        "ConfigMap",
        "Service",
        "Deployment",
        "PyTorchJob",
    ]
    for item in objects:
        assert item["metadata"]["namespace"] == "ns"
        assert item["metadata"]["labels"][names.LABEL_RUN] == "demo"
    job = job_of(objects)
    assert job["metadata"]["labels"][names.LABEL_ATTEMPT] == "1"
    assert job["metadata"]["annotations"][names.ANNOTATION_CHECKPOINT_ROOT] == "s3://bucket/runs/demo"
    config = next(item for item in objects if item["kind"] == "ConfigMap")
    digest = config["metadata"]["annotations"][names.ANNOTATION_SPEC_DIGEST]
    assert digest == job["metadata"]["annotations"][names.ANNOTATION_SPEC_DIGEST] == spec_with().digest()
    assert json.loads(config["data"][names.CONFIG_FILE])["spec_digest"] == digest


def test_text_reaches_the_pod_unchanged():
    found = environment(job_of(render(spec_with(*ENV), renderer=EmbeddedHelm())))
    assert found["NASTY"] == NASTY
    assert (found["NUMBER"], found["FLAG"], found["TIME"], found["OCTAL"]) == ("1e5", "no", "12:30", "0o17")


def test_printed_yaml_reads_back_as_the_same_objects():
    objects = render(spec_with(*ENV), renderer=EmbeddedHelm())
    text = to_yaml(objects)
    assert list(yaml.safe_load_all(text)) == objects
    # A YAML 1.2 reader takes these for numbers unless they are quoted.
    assert 'value: "1e5"' in text
    assert 'value: "0o17"' in text


# Control characters below space are no text for YAML; surrogates are no text at all.
_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Co")), max_size=30)


@settings(max_examples=40)
@given(_TEXT)
def test_any_text_reaches_the_pod_unchanged(text):
    objects = render(spec_with(f"env.X={quoted(text)}"), renderer=EmbeddedHelm())
    assert environment(job_of(objects))["X"] == text
    assert environment(job_of(list(yaml.safe_load_all(to_yaml(objects)))))["X"] == text


@pytest.mark.skipif(helm_binary() is None, reason="no helm binary; tests/e2e runs the same and never skips")
@pytest.mark.parametrize("overrides", MATRIX)
def test_embedded_helm_and_the_binary_give_equal_bytes(overrides):
    embedded, binary = rendered_by_both(overrides, helm_binary())
    assert embedded == binary


def script(tmp_path, body):
    path = tmp_path / "helm"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def test_a_helm_that_fails_is_reported_with_its_words(tmp_path):
    with pytest.raises(InternalError, match="does not render: no such thing") as caught:
        render(spec_with(), renderer=HelmBinary(script(tmp_path, "echo 'no such\nthing' >&2; exit 1")))
    assert caught.value.code == ExitCode.INTERNAL


def test_a_helm_that_is_no_program_or_hangs_is_unavailable(tmp_path, monkeypatch):
    with pytest.raises(UnavailableError, match="cannot run"):
        render(spec_with(), renderer=HelmBinary(str(tmp_path / "none")))
    monkeypatch.setattr(rendering, "_TIMEOUT_SECONDS", 0.05)
    with pytest.raises(UnavailableError, match="did not finish"):
        render(spec_with(), renderer=HelmBinary(script(tmp_path, "exec sleep 300")))


def test_values_the_chart_refuses_are_an_internal_error():
    with pytest.raises(InternalError):
        EmbeddedHelm().render(chart_path("clip-run"), {"spec": {}, "derived": {}}, "demo", "ns")


def test_which_helm_is_chosen(monkeypatch, tmp_path):
    assert isinstance(choose_renderer(), EmbeddedHelm)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", os.path.dirname(script(tmp_path, "exit 0")))
    assert isinstance(choose_renderer(), HelmBinary)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingError, match="no Helm"):
        choose_renderer()


def test_manifest_helpers():
    def item(kind, name, **annotations):
        return {"kind": kind, "metadata": {"name": name, "annotations": annotations}}

    shuffled = [item("PyTorchJob", "j"), item("Zed", "z"), item("ConfigMap", "b"), item("ConfigMap", "a")]
    assert [i["metadata"]["name"] for i in in_order(shuffled)] == ["a", "b", "j", "z"]
    assert is_hook(item("Pod", "t", **{"helm.sh/hook": "test"}))
    assert not is_hook({"kind": "Pod", "metadata": {"annotations": None}})
    assert file_name(item("PyTorchJob", "demo-1")) == "pytorchjob-demo-1.yaml"
    assert parse_manifests("---\n# nothing\n---\na: 1\n") == [{"a": 1}]


def test_a_missing_chart_means_a_broken_installation():
    with pytest.raises(InternalError, match="is missing from this installation"):
        chart_path("no-such-chart")

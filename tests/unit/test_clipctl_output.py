import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipctl import output
from clipctl.contract.errors import CorruptError, MissingError
from clipctl.yamlsafe import DocumentError, Position, Problem

CANARY = "AKIAIOSFODNN7EXAMPLE"


def test_everything_printed_is_redacted(capsys):
    output.say(f"key {CANARY}")
    output.note("url https://user:hunter2@host/x")
    output.say_json({"a": [CANARY], "MY_TOKEN": "hunter2", "nested": {"password": "hunter2"}})
    output.say_manifest(f"a: {CANARY}\nautomountServiceAccountToken: false\n")
    output.show_error(MissingError(f"no {CANARY}", hint="password=hunter2"), as_json=False)
    output.show_error(MissingError(f"no {CANARY}", hint="password=hunter2"), as_json=True)
    captured = capsys.readouterr()
    assert CANARY not in captured.out + captured.err
    assert "hunter2" not in captured.out + captured.err


def test_json_that_will_be_applied_keeps_names_of_secrets(capsys):
    value = {"imagePullSecrets": ["x-reg"], "secret": "my-secret", "url": "https://u:hunter2@h", "env": [CANARY]}
    output.say_manifest_json(value)
    assert json.loads(capsys.readouterr().out) == {**value, "url": "https://***@h", "env": ["***"]}


def test_manifests_keep_fields_that_only_sound_secret(capsys):
    text = "automountServiceAccountToken: false\nsecretKeyRef:\n  name: my-secret\n"
    output.say_manifest(text)
    assert capsys.readouterr().out == text


def test_control_characters_never_reach_the_terminal(capsys):
    output.say("a\x1b[31mred\x07\x9b31m\tb\r")
    assert capsys.readouterr().out == "a[31mred31m\tb\n"


@given(st.recursive(st.text() | st.integers() | st.none(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)))
def test_redacting_json_keeps_its_structure(value):
    def shape(v):
        if isinstance(v, dict):
            return {k: shape(inner) for k, inner in v.items()}
        return [shape(inner) for inner in v] if isinstance(v, list) else type(v)

    assert shape(output.redact_tree(value)) == shape(value)


def test_numbers_json_cannot_hold_become_null(capsys):
    output.say_json({"a": float("nan"), "b": float("inf"), "c": 1.5, "d": (1, 2)}, indent=None)
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": None, "c": 1.5, "d": [1, 2]}


def test_an_error_is_one_paragraph(capsys):
    output.show_error(CorruptError("it is broken.", hint="Mend it."), as_json=False)
    output.show_error(CorruptError("these differ:\n  a: 1 -> 2\n", hint="Mend it."), as_json=False)
    output.show_error(CorruptError("it is broken."), as_json=False)
    assert capsys.readouterr().err == (
        "error: it is broken. Mend it.\nerror: these differ:\n  a: 1 -> 2\nMend it.\nerror: it is broken.\n"
    )


def test_an_error_as_json(capsys):
    output.show_error(CorruptError("it is broken.", hint="Mend it."), as_json=True)
    assert json.loads(capsys.readouterr().err) == {
        "error": {"code": 65, "problem": "it is broken.", "hint": "Mend it."}
    }


@pytest.fixture
def document_error():
    return DocumentError([Problem(Position("run.yaml", 3, 5), "scale.image_pull_secrets", "should be a list, not 3")])


def test_problems_of_a_file_are_printed_one_per_line(capsys, document_error):
    output.show_error(document_error, as_json=False)
    assert capsys.readouterr().err == (
        "run.yaml:3:5 scale.image_pull_secrets: should be a list, not 3\nerror: 1 problem.\n"
    )


def test_problems_of_a_file_as_json(capsys, document_error):
    output.show_error(document_error, as_json=True)
    (problem,) = json.loads(capsys.readouterr().err)["error"]["problems"]
    assert problem == {
        "file": "run.yaml",
        "line": 3,
        "column": 5,
        "field": "scale.image_pull_secrets",
        "problem": "should be a list, not 3",
    }


def test_table_is_aligned():
    assert output.table(("A", "BB"), [("xxx", "y"), ("z", "")]) == "A     BB\nxxx   y\nz"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (-3, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m"), (200, "3m20s"), (7500, "2h5m"), (356400, "4d3h")],
)
def test_durations(seconds, text):
    assert output.duration(seconds) == text


def test_ages_and_sizes():
    assert output.age(100.0, 145.0) == "45s"
    assert output.age(None) == "-"
    assert [output.size(n) for n in (0, 1023, 1024, 3 << 20, 5 << 30, 2 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
        "2.0 TiB",
    ]


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "caf\u00e9 \u8d64 ?"), ("latin-1", "caf\u00e9 ? ?"), ("ascii", "caf? ? ?")]
)
def test_results_fit_the_encoding_of_standard_output(encoding, shown, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    output.say("caf\u00e9 \u8d64 \ud800")
    assert raw.getvalue().decode(encoding) == f"{shown}\n"

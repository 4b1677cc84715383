import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipctl.contract.errors import ExitCode, MissingError, PermissionDeniedError, SpecError
from clipctl.yamlsafe import MAX_BYTES, MAX_DEPTH, Document, DocumentError, Position, dotted, load, read_bounded


def parse(text):
    return load(text.encode() if isinstance(text, str) else text, "f.yaml")


def problems(text):
    with pytest.raises(DocumentError) as caught:
        parse(text)
    assert caught.value.code == ExitCode.USAGE
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # What YAML 1.1 would turn into something else stays what it looks like.
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("1:2:3", "1:2:3"),
        ("1_000", "1_000"),
        ("017", "017"),
        ("0o17", "0o17"),
        ("0x1F", "0x1F"),
        ("0b11", "0b11"),
        ("2026-11-23", "2026-11-23"),
        ("=", "="),
        ("<<", "<<"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("NaN", "NaN"),
        ("1.2.3", "1.2.3"),
        ("+", "+"),
        (".", "."),
        ("e5", "e5"),
        ("1e", "1e"),
        ("00.5", "00.5"),
        ("'3'", "3"),
        ('"true"', "true"),
        # Numbers, booleans and null.
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("3e-4", 3e-4),
        ("1e5", 1e5),
        ("1E+5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("0.5e1", 5.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
    ],
)
def test_plain_scalars_keep_their_type(text, value):
    found = parse(f"a: {text}\n").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_nested_data_with_positions():
    document = parse("a:\n  b: [1, {c: x}]\n  d: 'q'\n")
    assert document.data == {"a": {"b": [1, {"c": "x"}], "d": "q"}}
    assert document.keys[("a", "b")] == Position("f.yaml", 2, 3)
    assert document.values[("a", "b")] == Position("f.yaml", 2, 6)
    assert document.values[("a", "b", 1, "c")] == Position("f.yaml", 2, 14)
    assert str(document.locate(("a", "d"))) == "f.yaml:3:6"
    assert str(document.locate(("a", "d"), key=True)) == "f.yaml:3:3"


def test_locating_an_absent_path_gives_its_nearest_ancestor():
    document = parse("a:\n  b: 1\n")
    assert str(document.locate(("a", "missing", "deeper"), key=True)) == "f.yaml:1:1"
    assert str(Document("x").locate(("a",))) == "x:1:1"


def test_keys_are_always_text():
    assert parse("1: a\ntrue: b\nnull: c\n").data == {"1": "a", "true": "b", "null": "c"}


def test_duplicate_keys_are_all_reported():
    found = problems("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n")
    assert found == [
        "f.yaml:4:3 b.c: stands here and in line 3 already",
        "f.yaml:5:1 a: stands here and in line 1 already",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &x 1\nb: *x\n", "f.yaml:1:4: anchors (&x) are not allowed"),
        ("a: *x\n", "f.yaml:1:4: aliases (*x) are not allowed; write the value out"),
        ("a: !!python/object/apply:os.system [echo]\n", "f.yaml:1:4: tags (tag:yaml.org,2002:python/object/apply"),
        ("a: !!str 3\n", "f.yaml:1:4: tags (tag:yaml.org,2002:str) are not allowed"),
        ("a: !local 3\n", "f.yaml:1:4: tags (!local) are not allowed"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: only one document is allowed in a file"),
        ("? [a, b]\n: 1\n", "f.yaml:1:3: a key must be plain text"),
        ("a: [1, 2\n", "f.yaml:2:1: "),
        ("a:\n\t- 1\n", "f.yaml:2:1: found character that cannot start any token"),
        ("a: b: c\n", "f.yaml:1:5: mapping values are not allowed in this context"),
        ("a: 1" + "0" * 40, "f.yaml:1:4 a: the number has more than 30 digits"),
        ("a: 1e999\n", "f.yaml:1:4 a: the number is too large"),
        (b"a: \xff\n", "f.yaml:1:4: not UTF-8 text (byte 3)"),
        (b"a: 1\nb: x\x00y\n", "f.yaml:2:5: a NUL byte: this is not a text file"),
        (b"a: \x01\n", "f.yaml:1:1: control characters are not allowed"),
    ],
)
def test_refusals_name_the_place(text, expected):
    (found,) = problems(text)
    assert found.startswith(expected)


def test_tabs_get_a_hint():
    assert problems("a:\n\t- 1\n")[0].endswith("indent with spaces, not tabs")


def test_a_byte_order_mark_is_no_problem():
    assert parse(b"\xef\xbb\xbfa: 1\n").data == {"a": 1}


def test_an_empty_file_has_no_data():
    assert parse("# nothing\n").data is None


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}")])
def test_depth_is_limited(opening, closing):
    assert parse(opening * MAX_DEPTH + "1" + closing * MAX_DEPTH).data
    (found,) = problems(opening * (MAX_DEPTH + 1) + "1" + closing * (MAX_DEPTH + 1))
    assert f"nested deeper than {MAX_DEPTH} levels" in found


def test_very_deep_nesting_neither_crashes_nor_recurses():
    assert "nested deeper" in problems("[" * 100_000)[0]


def test_size_is_limited():
    assert problems(b"a: " + b"x" * MAX_BYTES) == ["f.yaml:1:1: larger than 1024 KiB"]


def test_an_alias_bomb_is_refused_at_its_first_anchor():
    bomb = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdef", "bcdefg", strict=True))
    assert problems(bomb) == ["f.yaml:1:4: anchors (&a) are not allowed"]


def test_dotted_escapes_what_would_disturb_a_terminal():
    assert dotted(("a", 0, "b")) == "a[0].b"
    assert "\x1b" not in dotted(("a\x1b[31m",))
    assert len(dotted(("k" * 500,))) == 60


def test_read_bounded_reads_one_byte_more_than_allowed(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"x" * (MAX_BYTES + 100))
    assert len(read_bounded(path)) == MAX_BYTES + 1


def test_unreadable_files_are_told_apart(tmp_path, monkeypatch):
    with pytest.raises(MissingError, match=r"no\.yaml does not exist"):
        read_bounded(tmp_path / "no.yaml")
    with pytest.raises(SpecError, match="is a directory"):
        read_bounded(tmp_path)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(PermissionDeniedError):
        read_bounded(tmp_path / "x")


def found_problems(data):
    try:
        load(data, "f")
    except DocumentError as error:
        return error.problems
    return ()


_LEAVES = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    _LEAVES | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef_", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES)
def test_json_reads_back_as_itself(value):
    # JSON is YAML; whatever is written as JSON must come back with value and type unchanged.
    assert load(json.dumps({"v": value}, ensure_ascii=False).translate(_UNSAFE).encode(), "f").data == {"v": value}


# JSON leaves a few characters unescaped that YAML does not allow or folds inside quotes.
_UNSAFE = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF)}


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_give_data_or_problems(data):
    assert all(problem.position.line >= 1 for problem in found_problems(data))


@given(st.text(alphabet=" \n:-[]{},&*!|>'\"%@`#?~ab01.e\t", max_size=120))
def test_yaml_punctuation_gives_data_or_problems(text):
    assert all(problem.text for problem in found_problems(text.encode()))

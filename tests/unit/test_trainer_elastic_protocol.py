"""Lines of the coordinator's protocol."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.elastic.protocol import MAX_LINE, MAX_MEMBERS, LineBuffer, ProtocolError, decode, encode

HELLO = {
    "type": "hello",
    "run": "run-1",
    "member": "node/0#0",
    "node": "node",
    "slot": 0,
    "min_members": 1,
    "max_members": 4,
    "last_call": 0.5,
    "generation": 3,
    "members": ["node/0#0", "other/0#0"],
}


def test_a_message_survives_the_line():
    assert decode(encode(HELLO)) == HELLO
    assert encode(HELLO).count(b"\n") == 1


def test_a_line_break_in_a_text_does_not_break_the_line():
    message = {"type": "dropped", "reason": "one\ntwo"}
    assert encode(message).count(b"\n") == 1
    assert decode(encode(message)) == message


def test_unknown_fields_are_kept_for_newer_peers():
    assert decode(encode({"type": "beat", "load": 3})) == {"type": "beat", "load": 3}


@pytest.mark.parametrize("field", [name for name in HELLO if name != "type"])
def test_every_field_is_needed(field):
    message = {name: value for name, value in HELLO.items() if name != field}
    with pytest.raises(ProtocolError, match=f"hello has no {field}"):
        decode(encode(message))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", 1),
        ("run", "x" * 1025),
        ("slot", -1),
        ("slot", 1.0),
        ("slot", True),
        ("slot", 1 << 60),
        ("generation", None),
        ("last_call", "soon"),
        ("last_call", -0.5),
        ("last_call", True),
        ("members", "node/0#0"),
        ("members", [1]),
        ("members", ["x"] * (MAX_MEMBERS + 1)),
    ],
)
def test_fields_of_the_wrong_type_are_refused(field, value):
    with pytest.raises(ProtocolError, match=f"hello has no {field}"):
        decode(encode({**HELLO, field: value}))


@pytest.mark.parametrize("flag", [0, 1, "true", None])
def test_a_flag_is_true_or_false(flag):
    with pytest.raises(ProtocolError, match="running"):
        decode(encode({"type": "welcome", "running": flag}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_seconds_are_finite(number):
    line = encode(HELLO).replace(b"0.5", number.encode())
    with pytest.raises(ProtocolError, match="last_call"):
        decode(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"{}",
        b'{"type": 3}',
        b'{"type": "explode"}',
        b"[" * 100_000,
        b"9" * 5000,
    ],
)
def test_other_lines_are_refused(line):
    with pytest.raises(ProtocolError):
        decode(line)


@given(st.binary(max_size=200))
def test_bytes_are_a_message_or_an_error(line):
    try:
        message = decode(line)
    except ProtocolError:
        return
    assert isinstance(message["type"], str)


@given(st.lists(st.sampled_from(["beat", "leave", "ping"]), max_size=20), st.integers(1, 30))
def test_lines_are_found_wherever_the_stream_is_cut(kinds, size):
    stream = b"".join(encode({"type": kind}) for kind in kinds)
    buffer = LineBuffer()
    lines = [line for at in range(0, len(stream), size) for line in buffer.feed(stream[at : at + size])]
    assert [json.loads(line)["type"] for line in lines] == kinds


def test_an_unfinished_line_is_kept_for_later():
    buffer = LineBuffer()
    assert buffer.feed(b'{"type":') == []
    assert buffer.feed(b'"beat"}\n{"ty') == [b'{"type":"beat"}']
    assert buffer.feed(b'pe":"ping"}\n') == [b'{"type":"ping"}']


def test_empty_lines_are_skipped():
    assert LineBuffer().feed(b"\n \n\r\nx\n") == [b"x"]


def test_a_line_may_have_the_limit_but_not_more():
    assert len(LineBuffer(10).feed(b"x" * 10 + b"\n")) == 1
    with pytest.raises(ProtocolError, match="longer than 10 bytes"):
        LineBuffer(10).feed(b"x" * 11)
    with pytest.raises(ProtocolError):
        LineBuffer(10).feed(b"x" * 11 + b"\n")
    buffer = LineBuffer(10)
    buffer.feed(b"x" * 6)
    with pytest.raises(ProtocolError):
        buffer.feed(b"x" * 6)


def test_the_largest_list_of_members_fits_into_a_line():
    members = ["n" * 63 + f"/{number % 16}#0" for number in range(MAX_MEMBERS)]
    formed = {"type": "formed", "generation": 1, "rank": 0, "members": members, "host": "h", "port": 1}
    assert len(encode(formed)) <= MAX_LINE

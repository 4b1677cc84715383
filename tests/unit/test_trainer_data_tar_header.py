"""Fields of tar headers: what Python's tarfile writes is read, and nothing else passes."""

import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.shards.tar_header import (
    BLOCK,
    HeaderError,
    check_header,
    compression,
    read_name,
    read_number,
    read_pax,
    read_text,
)

NUMBERS = st.integers(0, 2**60)


def header(name="a.png", **fields):
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


def with_checksum(block, total):
    return block[:148] + b"%06o\0 " % total + block[156:]


@given(block=st.binary(min_size=BLOCK, max_size=BLOCK))
def test_the_checksum_is_the_sum_of_all_bytes(block):
    block = block[:257] + b"ustar\x0000" + block[265:]
    blank = block[:148] + b" " * 8 + block[156:]
    check_header(with_checksum(block, sum(blank)))
    signed = sum(byte - 256 * (byte > 127) for byte in blank)
    if signed > 0:
        check_header(with_checksum(block, signed))
    for wrong in (sum(blank) + 1, sum(blank) - 1, sum(blank) + 65521, max(0, sum(blank) - 65521)):
        if wrong != signed:
            with pytest.raises(HeaderError, match="wrong checksum"):
                check_header(with_checksum(block, wrong))


def test_the_greatest_sum_is_exact():
    """Of nothing but 255: where a sum modulo 65521 would go wrong first."""
    block = b"\xff" * 257 + b"ustar\x0000" + b"\xff" * (BLOCK - 265)
    check_header(with_checksum(block, sum(block[:148]) + 8 * 32 + sum(block[156:])))


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (b"", "no end-of-archive marker"),
        (header()[:-1], "truncated inside a header"),
        (header()[:257] + b"tarred!!" + header()[265:], "has no tar header"),
        (b"b" + header()[1:], "wrong checksum"),
        (header()[:148] + b"12x456\0 " + header()[156:], "damaged number"),
    ],
)
def test_what_is_no_header(block, problem):
    check_header(header())
    with pytest.raises(HeaderError, match=problem):
        check_header(block)


@given(number=NUMBERS)
def test_numbers_are_read_as_tarfile_writes_them(number):
    kind = tarfile.GNU_FORMAT if number >= 8**11 else tarfile.USTAR_FORMAT
    assert read_number(tarfile.itn(number, 12, kind)) == number


@pytest.mark.parametrize("field", [b"0000644\0", b" 644 \0\0\0", b"\0\0\0", b"        ", b"00000000644 "])
def test_numbers_may_be_padded(field):
    assert read_number(field) == (0o644 if b"644" in field else 0)


@pytest.mark.parametrize(
    "field", [b"64_4\0", b"-644\0", b"+644\0", b"0o644\0", b"648\0", b"6 44\0", b"644\0x", b"\xc0\0"]
)
def test_numbers_of_other_forms_are_damage(field):
    with pytest.raises(HeaderError):
        read_number(field)


@pytest.mark.parametrize("name", ["a.png", "d/a.png", "p" * 120 + "/" + "n" * 50, "x" * 100])
def test_names_are_read_with_their_prefix(name):
    assert read_name(header(name)) == name


def test_a_prefix_belongs_to_ustar_only():
    block = header("a.png")
    gnu = block[:257] + b"ustar  \x00" + block[265:345] + b"1700000000\0" + block[356:]
    assert read_name(gnu) == "a.png"


@given(raw=st.binary(max_size=30))
def test_names_of_any_bytes_survive(raw):
    assert read_text(raw).encode("utf-8", "surrogateescape") == raw


@given(path=st.text(min_size=1, max_size=200).filter(lambda text: "\0" not in text), size=st.integers(0, 10**15 - 1))
def test_pax_records_are_read_as_tarfile_writes_them(path, size):
    path = path.encode("utf-8", "replace").decode()
    records = {"comment": "x" * 99, "path": path, "mtime": "1.5", "size": str(size)}
    payload = tarfile.TarInfo._create_pax_generic_header(records, tarfile.XHDTYPE, "utf-8")
    length = read_number(payload[124:136])
    assert read_pax(payload[BLOCK : BLOCK + length]) == {"path": path, "size": str(size)}


@pytest.mark.parametrize(
    "payload",
    [
        b"x",
        b"99 path=x\n",
        b"x path=x\n",
        b"12 pathxxxx\n",
        b"10 path=xx",
        b"11 size=-1\n",
        b"3 =\n5 a=\n",
        b"28 GNU.sparse.major=1\n0000000\n",
        b"99999999 path=x\n",
        b"0 path=x\n",
        b"22 size=" + b"9" * 16 + b"\n",
    ],
)
def test_damaged_pax_records(payload):
    assert read_pax(b"") == read_pax(bytes(512)) == {}
    with pytest.raises(HeaderError):
        read_pax(payload)


@given(payload=st.binary(max_size=200))
def test_pax_records_of_any_bytes_never_break(payload):
    try:
        found = read_pax(payload)
    except HeaderError:
        return
    assert set(found) <= {"path", "size"}


def test_compressed_files_are_known_by_their_first_bytes():
    assert compression(b"\x1f\x8b\x08") == ("gzip", "gunzip")
    assert compression(header()) is None

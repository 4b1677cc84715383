"""The tar reader: every format tarfile writes, and no damage unnoticed."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.shards import tar_bytes
from clip_trainer.data.shards.tar import TarReader
from clip_trainer.data.shards.tar_header import BLOCK
from clipctl.contract.errors import CorruptError

LONG = "directory/" * 20 + "n" * 90 + ".txt"
UMLAUT = "grüße/bild.jpg"


def read(data, **options):
    return list(TarReader(io.BytesIO(data).read, "x.tar", wanted=lambda name: True, **options))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("sizes", [[], [0], [1, 511, 512, 513, 0, 2000]])
def test_reads_what_tarfile_writes(kind, sizes):
    files = [(f"d/{i}.bin", bytes([i]) * size) for i, size in enumerate(sizes)]
    assert [(m.name, m.data) for m in read(tar_bytes(files, kind))] == files


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", [LONG, UMLAUT, "x" * 300])
def test_long_and_foreign_names(kind, name):
    files = [("before.txt", b"1"), (name, b"content"), ("after.txt", b"2")]
    members = read(tar_bytes(files, kind))
    assert [(m.name, m.data) for m in members] == files
    assert members[1].header_offset == 1024, "extended headers belong to the member they describe"
    assert members[2].header_offset == members[1].data_offset + BLOCK


def test_ustar_prefix_is_part_of_the_name():
    name = "p" * 120 + "/" + "n" * 50
    assert [m.name for m in read(tar_bytes([(name, b"")]))] == [name]


def test_names_that_are_not_utf8_survive():
    data = tar_bytes([("abc", b"x")])
    header = bytearray(data[:512])
    header[0] = 0xE9
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    assert read(bytes(header) + data[512:])[0].name == b"\xe9bc".decode("utf-8", "surrogateescape")


def test_a_base_256_size_is_read():
    data = tar_bytes([("abc", b"x" * 700)])
    header = bytearray(data[:512])
    header[124:136] = b"\x80" + (700).to_bytes(11, "big")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    assert read(bytes(header) + data[512:])[0].data == b"x" * 700


def test_signed_checksums_of_old_tars_are_accepted():
    data = tar_bytes([("abc", b"x")])
    header = bytearray(data[:512])
    header[0] = 0xE9
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % (sum(header) - 256)
    assert len(read(bytes(header) + data[512:])) == 1


def special(kind, name="special", **fields):
    header = tarfile.TarInfo(name)
    header.type = kind
    for field, value in fields.items():
        setattr(header, field, value)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(header)
        tar.addfile(tarfile.TarInfo("real.txt"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_only_regular_files_are_reported(kind):
    assert [m.name for m in read(special(kind, linkname="/etc/passwd"))] == ["real.txt"]


def test_sparse_files_are_refused():
    with pytest.raises(CorruptError, match="unsupported type"):
        read(special(tarfile.GNUTYPE_SPARSE))


def test_global_pax_headers_are_passed_over():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "hello"}) as tar:
        tar.addfile(tarfile.TarInfo("real.txt"))
    assert [m.name for m in read(buffer.getvalue())] == ["real.txt"]


SHARD = tar_bytes([("a.txt", b"alpha"), ("b.png", b"p" * 900), ("c.txt", b"")])
DATA_END = 512 * (1 + 1 + 1 + 2 + 1)


@pytest.mark.parametrize("cut", range(0, DATA_END + 2 * BLOCK, 64))
def test_every_truncation_is_noticed(cut):
    with pytest.raises(CorruptError, match=r"x\.tar"):
        read(SHARD[:cut])


def test_padding_behind_the_two_zero_blocks_is_optional():
    assert len(read(SHARD[: DATA_END + 2 * BLOCK])) == 3


def test_trailing_data_is_noticed():
    with pytest.raises(CorruptError, match="behind its end-of-archive marker"):
        read(SHARD + SHARD)


@pytest.mark.parametrize("offset", [*range(0, 154), *range(156, 512)])  # 154, 155 end the checksum field
def test_every_flipped_header_byte_is_noticed(offset):
    damaged = bytearray(SHARD)
    damaged[512 * 2 + offset] ^= 0x01
    with pytest.raises(CorruptError):
        read(bytes(damaged))


@pytest.mark.parametrize("junk", [b"<html>404</html>" * 64, b"\x1f\x8b" + b"z" * 2000, b"PK\x03\x04" * 500, b"x" * 10])
def test_other_files_are_no_tars(junk):
    with pytest.raises(CorruptError):
        read(junk)


@given(junk=st.binary(min_size=0, max_size=3000))
@settings(max_examples=100, deadline=None)
def test_random_bytes_never_crash(junk):
    with pytest.raises(CorruptError):
        read(junk + b"\1")


@given(at=st.integers(0, DATA_END - 1), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_a_flip_raises_a_typed_error_or_changes_content_only(at, bit):
    damaged = bytearray(SHARD)
    damaged[at] ^= 1 << bit
    try:
        names = [m.name for m in read(bytes(damaged))]
    except CorruptError:
        return
    assert names == ["a.txt", "b.png", "c.txt"], "no member may vanish or change its name silently"


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"99 path=x\n",
        b"x path=x\n",
        b"12 pathxxxx\n",
        b"11 size=-1\n",
        b"10 path=xx",
        b"28 GNU.sparse.major=1\n0000000\n",
    ],
)
def test_damaged_pax_headers(record):
    data = bytearray(tar_bytes([("h", record), ("real.txt", b"x")]))
    data[156:157] = b"x"
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    if not record:
        assert [m.name for m in read(bytes(data))] == ["real.txt"]
        return
    with pytest.raises(CorruptError):
        read(bytes(data))


def test_huge_extended_headers_are_not_loaded():
    data = bytearray(tar_bytes([("h", b"")]))
    data[156:157], data[124:136] = b"L", b"77777777777\0"
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(CorruptError, match="extended header of"):
        read(bytes(data))


def test_an_extended_header_needs_its_member():
    data = tar_bytes([(LONG, b"x")], tarfile.GNU_FORMAT)
    with pytest.raises(CorruptError, match="without its member"):
        read(data[:1024] + bytes(1024))


def test_content_is_loaded_only_if_wanted():
    wanted = list(TarReader(io.BytesIO(SHARD).read, "x.tar", wanted=lambda name: name == "b.png"))
    assert [m.data is not None for m in wanted] == [False, True, False]
    assert [m.size for m in wanted] == [5, 900, 0]


def test_fragments_end_at_a_member_and_count_from_their_start():
    reader = TarReader(io.BytesIO(SHARD[1024:2560]).read, "x.tar", fragment=True, start=1024)
    members = list(reader)
    assert [(m.name, m.header_offset, m.data_offset) for m in members] == [("b.png", 1024, 1536)]
    assert reader.end == 2560
    with pytest.raises(CorruptError):
        list(TarReader(io.BytesIO(SHARD[1024:2559]).read, "x.tar", fragment=True))
    with pytest.raises(CorruptError, match="empty block inside a sample"):
        list(TarReader(io.BytesIO(SHARD[1024:2560] + bytes(512)).read, "x.tar", fragment=True))


def test_content_that_a_header_only_claims_is_not_waited_for():
    """Eight gigabytes of an image that is wanted: nothing of that size is asked for."""
    data = bytearray(tar_bytes([("a.png", b"")]))
    data[124:136] = b"77777777777\0"
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    asked = []
    stream = io.BytesIO(bytes(data))

    def reading(count):
        asked.append(count)
        return stream.read(count)

    with pytest.raises(CorruptError, match="truncated inside a member"):
        list(TarReader(reading, "x.tar", wanted=lambda name: True))
    assert max(asked) <= 1 << 20

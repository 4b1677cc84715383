"""One shard, read once: what is listed, and what is refused."""

import gzip
import io
import json
import tarfile

import pytest

from clip_testkit.shards import png, sample_members, tar_bytes
from clip_trainer.data.index import scan as index_scan
from clip_trainer.data.index.format import sample_check
from clip_trainer.data.index.rows import unpack_details, unpack_rows
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.scan import scan_shard
from clip_trainer.data.shards.sample import parse_sample
from clip_trainer.data.storage.source import ObjectInfo, SourceCounters
from clipctl.contract.errors import CorruptError, ExitCode

ALL = SampleRules()
KEEP = SampleRules(duplicates="keep")


class Memory:
    """One shard in memory, of which a part may be repeated without being stored."""

    base, remote = "memory", False

    def __init__(self, content):
        self.content, self.counters = content, SourceCounters()

    def read(self, name, offset, length, *, etag=None):
        return self.content[offset : offset + length]


class Scanned:
    """What is in a shard, by the rows of its index."""

    def __init__(self, content, rules=ALL):
        self.content, self.progress = content, []
        found = scan_shard(Memory(content), ObjectInfo("s.tar", len(content), "tag", 7), rules, self.progress.append)
        self.entry, self.block = found
        self.rows = unpack_rows(found.block, found.entry.samples)
        self.details = unpack_details(found.block, found.entry.samples)

    def samples(self):
        """Key and suffixes of every listed sample, each cut out by its row and checked."""
        found = []
        for number in range(self.entry.samples):
            offset, length = self.rows.range(number)
            data = self.content[offset : offset + length]
            assert sample_check(data) == self.rows.checks[number]
            sample = parse_sample(data, "s.tar")
            found.append((sample.key, tuple(sample.members)))
        return found


def test_a_shard_is_described():
    content = tar_bytes([*sample_members(1, cls=3), *sample_members(2, captions=["a", "b"]), ("000003.png", png(3))])
    scanned = Scanned(content)
    assert scanned.samples() == [
        ("000001", ("png", "txt", "cls")),
        ("000002", ("png", "txt", "json")),
        ("000003", ("png",)),
    ]
    entry = scanned.entry
    assert (entry.name, entry.bytes, entry.etag, entry.modified) == ("s.tar", len(content), "tag", 7)
    assert (entry.samples, entry.images, entry.captions, entry.classes) == (3, 3, 2, 1)
    assert scanned.details.suffixes == {"png": 3, "txt": 2, "json": 1, "cls": 1}
    assert scanned.details.left_out == {}
    assert sum(scanned.progress) == len(content)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (tar_bytes([]), "holds no samples"),
        (tar_bytes([("README", b"hello")]), "holds no samples"),
        (tar_bytes([("a.txt", b"only text")]), "holds no images"),
        (tar_bytes([("a.pkl", b"cos\nsystem\n")]), "holds no images"),
        (tar_bytes([*sample_members(1), *sample_members(1)[:1]]), "two members 'png'"),
        (tar_bytes([*sample_members(1), *sample_members(2), *sample_members(1)]), "occurs twice"),
        (tar_bytes(sample_members(1))[:-10000], "truncated"),
        (b"<html>no</html>" * 100, "no tar header"),
        (gzip.compress(tar_bytes(sample_members(1))), "is gzip-compressed: gunzip it"),
        (b"BZh91AY&SY" + bytes(range(256)) * 9, "is bzip2-compressed: bunzip2 it"),
        (b"\xfd7zXZ\0" + b"x" * 900, "is xz-compressed"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 900, "is zstd-compressed"),
        (bytes(512) + b"x", "lone zero block"),
        (bytes(10240), "holds no samples"),
    ],
)
def test_bad_shards_are_named(content, problem):
    with pytest.raises(CorruptError, match=problem) as caught:
        Scanned(content)
    assert "memory/s.tar" in caught.value.problem
    assert caught.value.code == ExitCode.CORRUPT


def test_a_name_that_begins_like_a_compressed_file_is_no_compression():
    assert Scanned(tar_bytes([("BZh.png", png(1))])).samples() == [("BZh", ("png",))]


def test_what_belongs_to_no_sample_is_passed_over():
    members = [("README", b"x" * 600), *sample_members(1), ("LICENSE", b"y"), *sample_members(2), ("end", b"z")]
    scanned = Scanned(tar_bytes(members, tarfile.PAX_FORMAT))
    assert [key for key, _ in scanned.samples()] == ["000001", "000002"]
    assert scanned.rows.range(0)[0] == 512 + 1024
    between = scanned.rows.range(1)[0] - sum(scanned.rows.range(0))
    assert between == 1024, "a member of no sample between two samples is in neither"


def test_what_lies_between_members_of_a_sample_is_read_with_it():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in [("d", None), ("d/1.png", png(1)), ("d/x", None), ("README", b"r"), ("d/1.txt", b"one")]:
            header = tarfile.TarInfo(name)
            header.type = tarfile.REGTYPE if data is not None else tarfile.DIRTYPE
            header.size = len(data or b"")
            tar.addfile(header, io.BytesIO(data or b""))
    assert Scanned(buffer.getvalue()).samples() == [("d/1", ("png", "txt"))]


def test_names_and_links_that_point_elsewhere_touch_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo("../../evil.png")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        for name, data in [("../../../tmp/x.png", png(1)), ("../../../tmp/x.txt", b"t"), ("/abs.png", png(2))]:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    scanned = Scanned(buffer.getvalue())
    assert [key for key, _ in scanned.samples()] == ["../../../tmp/x", "/abs"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pth", "pt", "pyd", "pyc", "so", "py", "ten", "npy"])
def test_members_that_could_be_code_are_never_loaded(tmp_path, suffix):
    canary = tmp_path / "canary"
    payload = b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    content = tar_bytes([*sample_members(1), (f"000001.{suffix}", payload)])
    rules = SampleRules(needs=("image", "caption"), min_side=2, where=())
    assert Scanned(content, rules).samples() == [("000001", ("png", "txt"))]
    assert not canary.exists()


def test_members_of_more_than_a_sample_may_have_are_refused(monkeypatch):
    monkeypatch.setattr(index_scan, "_MAX_SAMPLE", 4096)
    with pytest.raises(CorruptError, match="holds a member of more than 4096 bytes"):
        Scanned(tar_bytes([("a.png", bytes(5000))]))
    with pytest.raises(CorruptError, match="holds a sample of more than 4096 bytes"):
        Scanned(tar_bytes([("a.png", bytes(3000)), ("a.txt", bytes(3000))]))


def test_duplicates_can_be_kept_as_openclip_keeps_them():
    members = [("a.png", png(1)), ("a.png", png(2)), ("a.txt", b"2"), ("b.png", png(3)), ("a.png", png(4))]
    assert Scanned(tar_bytes(members), KEEP).samples() == [
        ("a", ("png",)),
        ("a", ("png", "txt")),
        ("b", ("png",)),
        ("a", ("png",)),
    ]


def test_left_out_samples_are_counted_by_reason():
    members = [*sample_members(1), ("2.png", png(2)), ("3.txt", b"three"), ("4.png", png(4)), ("4.txt", b" ")]
    scanned = Scanned(tar_bytes(members), SampleRules(needs=("image", "caption")))
    assert scanned.samples() == [("000001", ("png", "txt"))]
    assert scanned.details.left_out == {"no caption": 2, "no image": 1}
    assert scanned.details.suffixes == {"png": 3, "txt": 3}


def test_a_shard_may_have_no_sample_left():
    scanned = Scanned(tar_bytes(sample_members(1)), SampleRules(min_side=100))
    assert (scanned.entry.samples, scanned.details.left_out) == (0, {"image too small": 1})


def many_members(count):
    """A shard of that many empty members: two headers a sample."""
    kinds = [bytearray(tarfile.TarInfo(f"000000000.{suffix}").tobuf()) for suffix in ("png", "txt")]
    for number in range(count // 2):
        for header in kinds:
            header[:9] = b"%09d" % number
            header[148:156] = b"        "
            header[148:156] = b"%06o\0 " % sum(header)
            yield bytes(header)
    yield bytes(1024)


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_shards_of_many_members(count):
    scanned = Scanned(b"".join(many_members(count)))
    assert scanned.entry.samples == count // 2
    assert scanned.rows.range(count // 2 - 1) == ((count - 2) * 512, 1024)
    assert len(scanned.block) < count // 2 * 12 + 100


def pax_bomb(records):
    """An extended header of that content before a picture."""
    content = records + bytes(-len(records) % 512)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    return header.tobuf() + content + tar_bytes([("a.png", png(1))])


def test_a_pax_header_of_very_many_records_takes_no_time():
    assert Scanned(pax_bomb(b"6 a=b\n" * 170_000)).samples() == [("a", ("png",))]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (pax_bomb(b"9" * 5000 + b" path=x\n"), "damaged pax header"),
        (pax_bomb(b"%d size=%s\n" % (5014, b"9" * 5000)), "damaged pax header"),
        (pax_bomb("12 size=²\n".encode()), "damaged pax header"),
        (pax_bomb(b"6 a=b\n" * 180_000), "extended header of 1080000 bytes"),
        (pax_bomb(b"6 a=b\n").replace(bytes(1024), b"")[:1024] * 40, "more than 16 extended headers"),
        (pax_bomb(b"18 path=" + b"x" * 9 + b"\n")[:1024] + bytes(1024), "without its member"),
    ],
)
def test_bombs_are_refused(content, problem):
    with pytest.raises(CorruptError, match=problem):
        Scanned(content)


def test_json_of_any_kind_is_only_text():
    """A `json` member that nests deeply or is no JSON leaves its sample out if a rule asks for it; nothing breaks."""
    bad = [b"[" * 100_000, b"{", b"\xff\xfe", b"null", b"[]", b"1" * 10_000, b'{"a": 1' + b"0" * 9000 + b"}"]
    members = [m for n, text in enumerate(bad) for m in ((f"{n}.png", png(n)), (f"{n}.json", text))]
    members += [("good.png", png(99)), ("good.json", json.dumps({"a": "b"}).encode())]
    scanned = Scanned(tar_bytes(members), SampleRules(where=(("a", "b"),)))
    assert [key for key, _ in scanned.samples()] == ["good"]
    assert sum(scanned.details.left_out.values()) == len(bad)

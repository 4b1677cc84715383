"""Our shards are webdataset's shards: what it writes we read, what we write it reads."""

import pytest
import webdataset

from clip_testkit.grouping import FORMATS, odd_shard
from clip_testkit.shards import png, sample_members, tar_bytes
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.update import IndexOptions, index_dataset
from clip_trainer.data.pack.item import ListedItems, PackItem
from clip_trainer.data.pack.pack import pack
from clip_trainer.data.pack.reshard import reshard
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.shards.sample import parse_sample
from clip_trainer.data.writing.image_resize import Resize
from clip_trainer.data.writing.shard_writer import WriteOptions
from clipctl.contract.errors import CorruptError


def ours(directory):
    dataset = open_dataset(str(directory))
    reader = dataset.open_reader(ReadHints())
    return [reader.read(s, i) for s, count in enumerate(dataset.index.counts) for i in range(count)]


def theirs(directory):
    """webdataset's own reading; files are opened here because it leaves them to the garbage collector."""
    found = []
    for path in sorted(directory.glob("*.tar")):
        with path.open("rb") as stream:
            files = webdataset.tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
            found += list(webdataset.tariterators.group_by_keys(files))
    return [{"key": s["__key__"]} | {k: v for k, v in s.items() if not k.startswith("__")} for s in found]


def same(directory):
    mine = [{"key": sample.key, **sample.members} for sample in ours(directory)]
    known = ("key", "png", "jpg", "jpeg", "webp", "txt", "json", "cls")
    return mine == [{k: v for k, v in sample.items() if k in known} for sample in theirs(directory)]


@pytest.mark.parametrize("keys", ["plain", "long", "unicode", "directory"])
def test_we_read_what_webdataset_writes(tmp_path, keys):
    name = {"plain": "{}", "long": "k" * 180 + "{}", "unicode": "grüße-{}", "directory": "a.b/c/{}"}[keys]
    for first in range(0, 20, 7):
        with (tmp_path / f"s-{first:04d}.tar").open("wb") as file, webdataset.TarWriter(file) as sink:
            for number in range(first, min(first + 7, 20)):
                caption = f"picture {number} " * (number * 50)
                key = name.format(number)
                sink.write({"__key__": key, "png": png(number), "txt": caption, "cls": number, "bin": b"x"})
    samples = ours(tmp_path)
    assert [sample.key for sample in samples] == [name.format(number) for number in range(20)]
    assert [sample.class_number() for sample in samples] == list(range(20))
    assert [sample.image() for sample in samples] == [png(number) for number in range(20)]
    assert same(tmp_path)


def test_webdataset_reads_what_we_pack(tmp_path):
    (tmp_path / "pictures").mkdir()
    items = []
    for number in range(15):
        image = tmp_path / "pictures" / f"{number}.png"
        image.write_bytes(png(number))
        captions = tuple(f"caption {number}.{i} ü" for i in range(1 + number % 3))
        items.append(PackItem(str(image), captions, number % 4))
    pack(ListedItems(items), str(tmp_path / "out"), WriteOptions(samples_per_shard=4))
    found = theirs(tmp_path / "out")
    assert len(found) == 15
    assert {sample["png"] for sample in found} == {png(number) for number in range(15)}
    assert {sample["txt"].decode() for sample in found} == {f"caption {n}.0 ü" for n in range(15)}
    assert same(tmp_path / "out")
    decode = webdataset.autodecode.Decoder([webdataset.autodecode.imagehandler("pilrgb")])
    decoded = [decode({"__key__": sample.pop("key"), **sample}) for sample in found]
    assert all(sample["png"].size == (8, 8) and isinstance(sample["cls"], int) for sample in decoded)


def test_webdataset_reads_what_we_pack_smaller_and_with_metadata(tmp_path):
    items = [PackItem(png(n, 40), (f"caption {n}",), metadata={"url": f"http://x/{n}"}) for n in range(9)]
    pack(ListedItems(items), str(tmp_path / "out"), WriteOptions(samples_per_shard=4), resize=Resize(16))
    decode = webdataset.autodecode.Decoder([webdataset.autodecode.imagehandler("pilrgb")])
    decoded = [decode({"__key__": sample.pop("key"), **sample}) for sample in theirs(tmp_path / "out")]
    assert {sample["json"]["url"] for sample in decoded} == {f"http://x/{n}" for n in range(9)}
    assert all(sample["jpg"].size == (16, 16) and sample["json"]["original_width"] == 40 for sample in decoded)
    assert same(tmp_path / "out")


@pytest.mark.parametrize("keys", ["plain", "long", "unicode", "directory"])
def test_what_webdataset_wrote_is_the_same_after_resharding(tmp_path, keys):
    name = {"plain": "{}", "long": "k" * 180 + "{}", "unicode": "grüße-{}", "directory": "a.b/c/{}"}[keys]
    (tmp_path / "in").mkdir()
    for first in range(0, 20, 7):
        with (tmp_path / "in" / f"s-{first:04d}.tar").open("wb") as file, webdataset.TarWriter(file) as sink:
            for number in range(first, min(first + 7, 20)):
                sample = {"png": png(number), "txt": f"ü {number}", "seg.bin": b"x" * number, "cls": number}
                sink.write({"__key__": name.format(number), **sample})
    reshard(str(tmp_path / "in"), str(tmp_path / "out"), WriteOptions(samples_per_shard=6))
    assert theirs(tmp_path / "out") == theirs(tmp_path / "in")
    assert same(tmp_path / "out")


@pytest.mark.parametrize("kind", sorted(FORMATS))
@pytest.mark.parametrize("seed", range(12))
def test_grouping_is_webdatasets(tmp_path, seed, kind):
    """Directories, several dots, upper case, long and foreign names, links, hidden files, files without samples."""
    (tmp_path / "s.tar").write_bytes(odd_shard(seed, kind, duplicates=False))
    assert same(tmp_path)
    assert len(ours(tmp_path)) > 20


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_suffix_that_comes_again_is_refused_as_webdataset_refuses_it(tmp_path):
    (tmp_path / "s.tar").write_bytes(tar_bytes([("a.png", b"1"), ("a.txt", b"2"), ("a.png", b"3")]))
    with pytest.raises(ValueError, match="duplicate file name"):
        theirs(tmp_path)
    with pytest.raises(CorruptError, match="two members 'png'"):
        ours(tmp_path)


def test_a_key_that_comes_again_is_refused_where_webdataset_makes_two_samples(tmp_path):
    (tmp_path / "s.tar").write_bytes(tar_bytes([("a.png", b"1"), ("b.png", b"2"), ("a.txt", b"3")]))
    assert [sample["key"] for sample in theirs(tmp_path)] == ["a", "b", "a"]
    with pytest.raises(CorruptError, match="'a' occurs twice, apart from each other"):
        ours(tmp_path)
    index_dataset(str(tmp_path), IndexOptions(SampleRules(duplicates="keep")))
    assert same(tmp_path)


def test_a_pickle_is_never_run(tmp_path):
    """The canary: a member that would create a file if anything unpickled it."""
    canary = tmp_path / "canary"
    payload = b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    members = [*sample_members(1), ("000001.pkl", payload), ("000001.pth", payload), ("000001.pyd", payload)]
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    (sample,) = ours(tmp_path)
    sample.captions(), sample.image(), sample.class_number()
    assert set(sample.members) == {"png", "txt"}
    assert not canary.exists()


def test_a_single_sample_is_parsed_from_webdatasets_bytes(tmp_path):
    with (tmp_path / "s.tar").open("wb") as file, webdataset.TarWriter(file) as sink:
        sink.write({"__key__": "k", "txt": "hello", "png": png(3)})
    shard = open_dataset(str(tmp_path)).index.shards[0]
    offset, length = shard.sample_range(0)
    sample = parse_sample((tmp_path / "s.tar").read_bytes()[offset : offset + length], "s.tar")
    assert sample.captions() == ("hello",)

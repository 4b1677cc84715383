"""Shards written anew: exactly the same samples, in other shards."""

import io
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_testkit.shards import png, read_shards, tar_bytes, write_dataset
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.update import IndexOptions, index_dataset
from clip_trainer.data.index.verify import verify_dataset
from clip_trainer.data.pack.reshard import reshard
from clip_trainer.data.writing.image_resize import Resize
from clip_trainer.data.writing.shard_writer import WriteOptions
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError, SpecError


def write(directory, shards):
    """Shards of the given members; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, members in enumerate(shards):
        (directory / f"old-{number:03d}.tar").write_bytes(tar_bytes(members))
    return directory


def content(directory):
    """The multiset of samples, whatever their keys."""
    return Counter(tuple(sorted(members.items())) for _, members in read_shards(Path(directory)))


@pytest.fixture
def data(tmp_path):
    write_dataset(tmp_path / "in", [6, 9, 1])
    return tmp_path / "in"


def test_other_sizes_keep_keys_and_order(data, tmp_path):
    summary = reshard(str(data), str(tmp_path / "out"), WriteOptions(samples_per_shard=7))
    assert (summary.shards, summary.samples) == (3, 16)
    assert read_shards(tmp_path / "out") == read_shards(data)
    assert open_dataset(str(tmp_path / "out")).index.counts[:] == (7, 7, 2)
    assert verify_dataset(str(tmp_path / "out"), deep=True).ok


def test_a_seed_shuffles_over_all_shards(data, tmp_path):
    results = {}
    for name, seed, workers in [("a", 1, 1), ("b", 1, 3), ("c", 2, 1)]:
        options = WriteOptions(samples_per_shard=8, workers=workers)
        reshard(str(data), str(tmp_path / name), options, seed=seed)
        results[name] = read_shards(tmp_path / name)
    assert results["a"] == results["b"] != results["c"]
    assert results["a"] != read_shards(data)
    assert dict(results["a"]) == dict(results["c"]) == dict(read_shards(data))


SUFFIXES = ["txt", "json", "cls", "JPG", "seg.png", "pkl"]


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    variety=st.integers(0, 2**32),
    seed=st.none() | st.integers(0, 2**60),
    per_shard=st.integers(1, 12),
    limit=st.none() | st.integers(1, 60_000),
    same_keys=st.booleans(),
)
def test_exactly_the_same_samples(tmp_path_factory, sizes, variety, seed, per_shard, limit, same_keys):
    """Random shards with all kinds of members, keys that repeat, and random ways of cutting."""
    root, draw = tmp_path_factory.mktemp("reshard"), random.Random(variety)
    shards, number = [], 0
    for count in sizes:
        members = []
        for place in range(count):
            key = draw.choice(["{}", "d/{}", "d.x/{}"]).format(place if same_keys else number)
            members.append((f"{key}.png", png(number)))
            suffixes = draw.sample(SUFFIXES, draw.randint(0, 5))
            members += [(f"{key}.{suffix}", draw.randbytes(draw.choice([0, 3, 512, 5000]))) for suffix in suffixes]
            if draw.random() < 0.2:
                members.append(("README", b"belongs to no sample"))
            number += 1
        shards.append(members)
    write(root / "in", shards)
    options = WriteOptions(samples_per_shard=per_shard, shard_bytes=limit, workers=2)
    summary = reshard(str(root / "in"), str(root / "out"), options, seed=seed)
    before = without_strangers(root / "in")
    assert content(root / "out") == before
    assert summary.samples == sum(sizes)
    counts = open_dataset(str(root / "out"), build=False).index.counts
    assert max(counts) <= per_shard
    if not same_keys:
        assert {key for key, _ in read_shards(root / "out")} == {
            key for key, _ in read_shards(root / "in") if key != "README"
        }


def without_strangers(directory):
    return Counter(tuple(sorted(members.items())) for key, members in read_shards(directory) if key != "README")


def test_repeated_keys_get_their_shards_name(tmp_path):
    shards = [[("0.png", png(n)), ("0.txt", b"%d" % n), ("d/1.png", png(n + 10))] for n in range(3)]
    write(tmp_path / "in", shards)
    reshard(str(tmp_path / "in"), str(tmp_path / "out"), WriteOptions(samples_per_shard=4))
    assert [key for key, _ in read_shards(tmp_path / "out")] == [
        "0",
        "d/1",
        "old-001/0",
        "old-001/d/1",
        "0",
        "d/1",
    ]


def test_patterns_single_shards_and_data_without_an_index(data, tmp_path):
    reshard(str(data / "shard-{000000..000001}.tar"), str(tmp_path / "a"))
    assert read_shards(tmp_path / "a") == read_shards(data)[:15]
    reshard(str(data / "shard-000001.tar"), str(tmp_path / "b"))
    assert read_shards(tmp_path / "b") == read_shards(data)[6:15]
    assert not (data / "index.json").exists(), "a part of a directory is indexed elsewhere"


def test_a_named_index_chooses_the_samples(tmp_path):
    for shard in (range(4), range(4, 9)):
        samples = [[(f"{n}.png", png(n)), (f"{n}.txt", b"long enough" if n % 3 else b"no")] for n in shard]
        members = [member for sample in samples for member in sample]
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{shard.start}.tar").write_bytes(tar_bytes(members))
    index_dataset(str(tmp_path / "in"), IndexOptions(SampleRules(min_caption=5)), name="long")
    reshard(str(tmp_path / "in"), str(tmp_path / "out"), index="long", seed=1)
    assert {members["png"] for _, members in read_shards(tmp_path / "out")} == {png(n) for n in range(9) if n % 3}
    reshard(str(tmp_path / "in"), str(tmp_path / "order"), index="long")
    assert [key for key, _ in read_shards(tmp_path / "order")] == [str(n) for n in range(9) if n % 3]
    with pytest.raises(MissingError):
        reshard(str(tmp_path / "in"), str(tmp_path / "none"), index="other")


def test_class_names_come_along(data, tmp_path):
    (data / "classes.json").write_bytes(b'["cat"]')
    reshard(str(data), str(tmp_path / "out"))
    assert (tmp_path / "out" / "classes.json").read_bytes() == b'["cat"]'


def jpeg(size):
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).save(buffer, "JPEG")
    return buffer.getvalue()


def test_images_can_be_made_smaller(tmp_path):
    large, small = jpeg((64, 48)), jpeg((20, 20))
    shards = [
        [("a.txt", b"x"), ("a.jpg", large), ("a.json", b'{"url": 1}'), ("a.seg.png", png(1, 64))],
        [("b.PNG", png(7, 40)), ("b.jpeg", large), ("b.txt", b"y")],
        [("c.jpg", small), ("c.png", png(1, 64)), ("d.txt", b"no image"), ("e.webp", png(2, 64))],
    ]
    write(tmp_path / "in", shards)
    reshard(str(tmp_path / "in"), str(tmp_path / "out"), resize=Resize(24))
    found = dict(read_shards(tmp_path / "out"))
    assert {name: data for name, data in found["a"].items() if name != "jpg"} == {
        "txt": b"x",
        "json": b'{"url": 1}',
        "seg.png": png(1, 64),
    }
    assert Image.open(io.BytesIO(found["a"]["jpg"])).size == (32, 24)
    assert set(found["b"]) == {"jpg", "PNG", "txt"}, "the image that training takes is made smaller"
    assert found["c"] == {"jpg": small, "png": png(1, 64)}
    assert found["d"] == {"txt": b"no image"}
    assert Image.open(io.BytesIO(found["e"]["jpg"])).format == "JPEG"


def test_images_that_cannot_be_made_smaller(tmp_path):
    write(tmp_path / "in", [[("a.jpg", jpeg((64, 48))), ("b.jpg", jpeg((64, 48))[:-400])]])
    with pytest.raises(CorruptError, match=r"old-000\.tar, sample 1 \(b\): unusable image \(cannot be decoded\)"):
        reshard(str(tmp_path / "in"), str(tmp_path / "out"), resize=Resize(24))
    options = WriteOptions(skip_errors=True)
    summary = reshard(str(tmp_path / "in"), str(tmp_path / "out"), options, resize=Resize(24))
    assert (summary.samples, summary.skipped) == (1, {"cannot be decoded": 1})


def test_damage_behind_the_index_is_noticed(data, tmp_path):
    index_dataset(str(data))
    path = data / "shard-000001.tar"
    damaged = bytearray(path.read_bytes())
    damaged[700] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(CorruptError, match=r"shard-000001\.tar"):
        reshard(str(data), str(tmp_path / "out"), WriteOptions(skip_errors=True))


def test_it_can_be_taken_up_again(data, tmp_path, monkeypatch):
    options = WriteOptions(samples_per_shard=4)
    reshard(str(data), str(tmp_path / "whole"), options, seed=5)
    reshard(str(data), str(tmp_path / "out"), options, seed=5)
    record = (tmp_path / "out" / "pack.json").read_bytes()
    again = reshard(str(data), str(tmp_path / "out"), options, seed=5)
    assert again.complete
    assert (tmp_path / "out" / "pack.json").read_bytes() == record == (tmp_path / "whole" / "pack.json").read_bytes()
    with pytest.raises(CannotCreateError, match="different: seed"):
        reshard(str(data), str(tmp_path / "out"), options, seed=6)
    with pytest.raises(CannotCreateError, match="different: resize"):
        reshard(str(data), str(tmp_path / "out"), options, seed=5, resize=Resize(8))


def test_neighbours_are_read_together(data, tmp_path):
    dataset = open_dataset(str(data))
    reshard(str(data), str(tmp_path / "out"))
    del dataset
    from clip_trainer.data.pack.reshard import _Resharding

    producer = _Resharding(open_dataset(str(data)), None, None)
    source = producer._dataset.source
    before = source.counters.requests
    keys = [sample.key for sample in producer.produce(range(2, 16))]
    assert keys == [f"{n:06d}" for n in range(2, 16)]
    assert source.counters.requests - before == 3, "one read for each shard"


@pytest.mark.parametrize("spelling", ["{}", "{}/", "file://{}"])
def test_the_dataset_itself_is_no_output(data, spelling):
    with pytest.raises(SpecError, match="is the dataset itself"):
        reshard(str(data), spelling.format(data))


def test_no_dataset(tmp_path):
    with pytest.raises(MissingError):
        reshard(str(tmp_path / "none"), str(tmp_path / "out"))

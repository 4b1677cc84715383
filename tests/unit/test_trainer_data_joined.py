"""Several sets of samples in a row, made-up samples, and how sources are opened."""

import os

import numpy as np
import pytest

from clip_testkit.runyaml import spec_with
from clip_testkit.shards import png, write_dataset
from clip_trainer.data.index.dataset import index_dataset, open_dataset
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.data.samples.opening import Opener, describe, open_training_data, opener_of
from clip_trainer.data.samples.synthetic import SyntheticSamples
from clip_trainer.data.samples.table import TableSamples
from clip_trainer.data.storage.block_store import BlockStore
from clip_trainer.data.storage.location import ALLOW_PIPE
from clip_trainer.data.storage.source_cached import CachedSource
from clip_trainer.vision import decode_image
from clipctl.contract.errors import CorruptError, MissingError, SpecError
from clipctl.contract.sections import ColumnsSection, SourceSection


@pytest.fixture
def data(tmp_path, monkeypatch):
    """`one` and `two` with shards of 3 + 2 and 4 samples, and `t.csv` with two rows."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "one", [3, 2])
    write_dataset(tmp_path / "two", [4])
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number + 100))
    (tmp_path / "t.csv").write_text("filepath,title\n0.png,row 0\n1.png,row 1\n")
    return tmp_path


def opened(*overrides):
    return open_training_data(spec_with(*overrides).data)


def captions(samples):
    reader = samples.open_reader(ReadHints())
    places = [(shard, index) for shard, count in enumerate(samples.counts) for index in range(count)]
    return [reader.read(*place).captions()[0] for place in places]


def test_sources_lie_one_behind_the_other(data):
    joined = opened("data.train='one::t.csv::two'")
    assert list(joined.counts) == [3, 2, 2, 4]
    assert (joined.shards, joined.samples) == ((2, 1, 1), (5, 2, 4))
    pictures = [f"picture {number}" for number in range(5)]
    assert captions(joined) == [*pictures, "row 0", "row 1", *pictures[:4]]
    assert joined.shard_name(1) == "one: shard-000001.tar"
    assert joined.shard_name(2).startswith("t.csv: t.csv from row 1")
    assert joined.shard_name(3) == "two: shard-000000.tar"
    assert joined.url == "one::t.csv::two"
    assert not joined.remote


def test_reading_is_counted_over_all_parts(data):
    joined = opened("data.train='one::t.csv'")
    reader = joined.open_reader(ReadHints())
    before = reader.snapshot()
    after = []
    for shard in (0, 2):
        reader.read(shard, 0)
        after.append(reader.snapshot())
    assert after[0]["bytes_read"] > before["bytes_read"]
    assert after[1]["bytes_read"] == after[0]["bytes_read"] + len(png(100))
    assert after[1]["requests"] == after[0]["requests"] + 1


def test_the_identity_is_that_of_the_contents_in_order(data):
    one, two = open_dataset("one"), open_dataset("two")
    assert opened("data.train=one").identity == one.identity
    assert opened("data.train=[{url: one}]").identity == one.identity
    joined = opened("data.train='one::two'").identity
    (data / "copy").mkdir()
    os.rename("one", "copy/one")
    assert opened(f"data.train='{data}/copy/one::two'").identity == joined
    assert len({joined, one.identity, two.identity, JoinedSamples([two, one]).identity}) == 4


def test_every_part_must_serve_the_purpose(data):
    joined = opened("data.train='one::t.csv'")
    joined.require("image", "caption")
    with pytest.raises(CorruptError, match="class"):
        joined.require("class")


class Recorder:
    """A set of samples that remembers how it was opened."""

    url, identity, remote = "recorder", "r", True

    def __init__(self, counts):
        self.counts = counts

    def open_reader(self, hints):
        self.hints = hints
        return self


def test_the_cache_is_shared_by_size():
    parts = Recorder([30]), Recorder([60, 10])
    JoinedSamples(parts).open_reader(ReadHints(1000, open_windows=8, window_samples=5))
    assert [part.hints for part in parts] == [(300, 3, 5), (700, 6, 5)]
    JoinedSamples(parts[:1]).open_reader(ReadHints(1000, 8, 5))
    assert parts[0].hints == (1000, 8, 5)


def test_synthetic_samples_are_black_and_equal():
    samples = SyntheticSamples(25_000, (6, 10))
    samples.require("image", "caption")
    assert list(samples.counts) == [10_000, 10_000, 5_000]
    reader = samples.open_reader(ReadHints())
    first, last = reader.read(0, 0), reader.read(2, 4_999)
    assert (first.key, last.key) == ("0", "24999")
    np.testing.assert_array_equal(decode_image(first.image()), np.zeros((6, 10, 3), np.uint8))
    assert first.image() == last.image()
    assert first.captions() == ("Dummy caption",)
    assert set(reader.snapshot().values()) == {0}
    with pytest.raises(CorruptError, match="no classes"):
        samples.require("class")
    assert samples.shard_name(1) == "synthetic:25000 shard 1"


@pytest.mark.parity
def test_synthetic_samples_are_openclips():
    from open_clip_train.data import SyntheticDataset

    theirs = SyntheticDataset(image_size=(10, 6), tokenizer=lambda text: [text])
    ours = SyntheticSamples(1, (6, 10)).read(0, 0)
    np.testing.assert_array_equal(decode_image(ours.image()), np.asarray(theirs.image))
    assert ours.captions() == (theirs.caption,)


@pytest.mark.parametrize(
    ("url", "kind"), [("one", "Dataset"), ("one/shard-00000{0..1}.tar", "Dataset"), ("t.csv", "TableSamples")]
)
def test_other_ranks_attach_to_what_the_first_describes(data, url, kind):
    source, opener = SourceSection(url=url), Opener()
    first = opener.open(source)
    second = opener.attach(source, describe(first))
    assert type(first).__name__ == type(second).__name__ == kind
    assert second.identity == first.identity
    assert captions(second) == captions(first)


def test_only_the_first_rank_asks_for_the_size_of_synthetic_images():
    source = SourceSection(url="synthetic:7")
    first = Opener(image_size=lambda: (6, 10)).open(source)
    second = Opener(image_size=lambda: pytest.fail("asked")).attach(source, describe(first))
    assert (second.image_size, sum(second.counts)) == ((6, 10), 7)


def test_a_worker_that_sees_other_data_stops(data):
    source, opener = SourceSection(url="t.csv"), Opener()
    description = describe(opener.open(source))
    (data / "t.csv").write_text("filepath,title\n0.png,changed\n")
    with pytest.raises(CorruptError, match=r"t\.csv is not the same data on every worker"):
        opener.attach(source, description)


def test_named_indexes(data):
    with pytest.raises(MissingError, match="big"):
        opened("data.train='one::two'", "data.index=big")
    index_dataset("one", name="big")
    index_dataset("two", name="big")
    assert sum(opened("data.train=[{url: one}, {url: two, index: big}]", "data.index=big").samples) == 9


def test_columns(data):
    (data / "u.csv").write_text("image;text\n0.png;a, b\n")
    table = opened("data.train=u.csv", "data.columns={image: image, caption: text, separator: ';'}")
    assert captions(table) == ["a, b"]
    assert isinstance(table.parts[0], TableSamples)


def test_the_disk_cache_is_put_before_remote_shards_only(data, monkeypatch):
    cache = f"data.cache={{path: {data}/cache, size: 1Mi}}"
    opener = opener_of(spec_with(cache).data)
    assert isinstance(opener.cache, BlockStore)
    source = SourceSection(url="one")
    assert not isinstance(opener.open(source).source, CachedSource)
    monkeypatch.setattr("clip_trainer.data.storage.source_local.LocalSource.remote", True)
    first = opener.open(source)
    assert isinstance(first.source, CachedSource)
    assert isinstance(opener.attach(source, describe(first)).source, CachedSource)
    assert not isinstance(Opener().open(source).source, CachedSource)


def test_commands_run_where_run_yaml_allows_them(data, monkeypatch):
    monkeypatch.setenv(ALLOW_PIPE, "0")
    pipe = "data.train='pipe:cat one/shard-00000{0..1}.tar'"
    with pytest.raises(SpecError, match="commands \\(pipe:\\) are not run"):
        Opener().open(SourceSection(url="pipe:cat one/shard-000000.tar"))
    assert captions(opened(pipe, "data.allow_pipe=true")) == [f"picture {number}" for number in range(5)]


def test_columns_of_openclip_are_the_default():
    assert Opener().columns == ColumnsSection(image="filepath", caption="title")

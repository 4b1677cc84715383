"""The sources of a run in S3 (moto), on disk and in tables at once: drawn, cached, and the same on every rank."""

import shutil

import pytest

from clip_testkit.datawork import first_captions
from clip_testkit.ranks import run_ranks
from clip_testkit.runyaml import spec_with
from clip_testkit.s3server import create_bucket, delete_object, s3_server, use_only
from clip_testkit.shards import png, write_dataset
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.samples.opening import open_training_data
from clip_trainer.data.storage.source_s3 import S3Source
from clip_trainer.train.sample_order import order_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """`one` and `two` with shards, and a table with its images."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "one", [6, 9])
    write_dataset(tmp_path / "two", [5])
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    (tmp_path / "t.csv").write_text("filepath,title\n" + "".join(f"{n}.png,row {n}\n" for n in range(4)))
    return tmp_path


@pytest.fixture
def bucket(folder, monkeypatch):
    """The shards of `one`, and the table with its images, in S3."""
    with s3_server() as endpoint:
        use_only(monkeypatch, endpoint, folder / "none")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        create_bucket(endpoint, "data")
        for path in [*(folder / "one").glob("*.tar"), *folder.glob("*.png"), folder / "t.csv"]:
            S3Source("s3://data/d").save(path.name, path.read_bytes())
        yield endpoint


def read_batch(spec, samples):
    reader = samples.open_reader(ReadHints())
    batch = order_of(spec, samples).batch(0, 64)
    return [reader.read(ref.shard, ref.index_in_shard).captions()[0] for ref in batch], reader.snapshot()


def test_where_the_sources_lie_does_not_matter(bucket, folder):
    far = spec_with("data.train='s3://data/d::two::s3://data/d/t.csv'")
    near = spec_with("data.train='one::two::t.csv'")
    remote, local = open_training_data(far.data), open_training_data(near.data)
    assert (remote.remote, local.remote) == (True, False)
    assert remote.identity == local.identity
    remote.require("image", "caption")
    captions, counts = read_batch(far, remote)
    assert captions == read_batch(near, local)[0]
    assert counts["requests"] > 0


def test_the_disk_cache_serves_a_second_run(bucket, folder):
    spec = spec_with("data.train=s3://data/d", "data.cache={path: blocks, size: 10Mi}", "data.resample={}")
    captions, first = read_batch(spec, open_training_data(spec.data))
    assert first["bytes_read"] > 0
    assert list((folder / "blocks").rglob("*.block"))
    again = open_training_data(spec.data)
    for name in ("shard-000000.tar", "shard-000001.tar"):
        delete_object(bucket, f"/data/d/{name}")
    assert read_batch(spec, again)[0] == captions


WORLD = 3
DRAWN = ["data.train=[{url: one}, {url: two, weight: 2}, {url: t.csv}]", "data.resample={weight_by: source}"]


@pytest.mark.parametrize("overrides", [["data.train='one::two::t.csv'"], DRAWN, ["data.train=synthetic:50"]])
def test_ranks_share_the_data(folder, overrides):
    found = run_ranks(WORLD, folder, first_captions, WORLD, [*overrides, "scale.nodes.max=3"], [str(folder)] * WORLD)
    spec = spec_with(*overrides, "scale.nodes.max=3")
    samples = open_training_data(spec.data)
    assert {identity for identity, _ in found} == {samples.identity}
    assert sorted(text for _, texts in found for text in texts) == sorted(read_batch(spec, samples)[0])


def test_all_ranks_stop_if_one_sees_other_data(folder):
    folders = [folder / str(rank) for rank in range(WORLD)]
    for one in folders:
        one.mkdir()
        shutil.copy(folder / "t.csv", one)
    (folders[2] / "t.csv").write_text("filepath,title\n0.png,other\n")
    overrides = ["data.train=t.csv", "scale.nodes.max=3"]
    found = run_ranks(WORLD, folder, first_captions, WORLD, overrides, [str(one) for one in folders])
    assert found == [("CorruptError", ["rank 2: t.csv is not the same data on every worker."])] * WORLD


def test_all_ranks_stop_if_the_first_cannot_open_it(folder):
    overrides = ["data.train='one::nowhere'", "scale.nodes.max=3"]
    found = run_ranks(WORLD, folder, first_captions, WORLD, overrides, [str(folder)] * WORLD)
    assert {kind for kind, _ in found} == {"MissingError"}
    assert all("nowhere" in words for _, (words,) in found)

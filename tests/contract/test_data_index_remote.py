"""Indexing shards in S3 and on a web server: brought up to date by etags, read in parallel, rows read when needed."""

import functools
import http.server
import threading

import pytest

from clip_testkit.s3server import create_bucket, delete_object, s3_server, use_only
from clip_testkit.shards import sample_members, tar_bytes, write_dataset
from clip_trainer.data.index import store as index_store
from clip_trainer.data.index.dataset import Dataset, index_dataset, open_dataset
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.update import IndexOptions
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.storage.source_s3 import S3Source
from clipctl.contract.errors import CorruptError


@pytest.fixture(scope="module")
def endpoint():
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(endpoint, request, tmp_path, monkeypatch):
    """A data set of three shards in a bucket of its own."""
    use_only(monkeypatch, endpoint, tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = "i" + str(abs(hash(request.node.name)))[:20]
    create_bucket(endpoint, name)
    write_dataset(tmp_path / "local", [6, 9, 4])
    source = S3Source(f"s3://{name}/d")
    for shard in (tmp_path / "local").glob("*.tar"):
        source.save(shard.name, shard.read_bytes())
    return source


def keys(dataset):
    reader = dataset.open_reader(ReadHints())
    return [reader.read(s, i).key for s, count in enumerate(dataset.counts) for i in range(count)]


def test_only_what_changed_is_read_again(bucket, endpoint):
    url = bucket.base
    first = index_dataset(url)
    assert str(first.changes) == "3 new, 0 changed, 0 unchanged, 0 gone"
    bucket.save("shard-000001.tar", tar_bytes(sample_members(500)))
    bucket.save("shard-000007.tar", tar_bytes(sample_members(700)))
    delete_object(endpoint, f"/{url.removeprefix('s3://')}/shard-000002.tar")
    source = S3Source(url)
    again = index_dataset(url, source=source)
    assert str(again.changes) == "1 new, 1 changed, 1 unchanged, 1 gone"
    table = again.index.header.table.bytes
    assert source.counters.bytes_read < 2 * len(tar_bytes(sample_members(500))) + 4 * table
    assert keys(open_dataset(url)) == [*(f"{n:06d}" for n in range(6)), "000500", "000700"]


def test_a_running_reader_keeps_its_index_while_another_is_written(bucket, monkeypatch):
    """The old table stays: a run that opened the old index goes on with it."""
    monkeypatch.setattr(index_store, "_READ_WHOLE", 0)
    old = open_dataset(bucket.base)
    bucket.save("shard-000009.tar", tar_bytes(sample_members(900)))
    index_dataset(bucket.base)
    assert len(keys(old)) == 19
    assert len(keys(open_dataset(bucket.base))) == 20


def test_every_rank_attaches_to_the_same_samples(bucket, monkeypatch):
    monkeypatch.setattr(index_store, "_READ_WHOLE", 0)
    index_dataset(bucket.base, IndexOptions(SampleRules(min_caption=len("picture 10"))), name="long")
    opened = open_dataset(bucket.base, name="long")
    payload = opened.payload()
    assert len(payload) < 2000, "the table is read by each rank"
    attached = Dataset.attach(bucket.base, payload)
    assert attached.identity == opened.identity
    assert keys(attached) == keys(opened) == [f"{n:06d}" for n in range(10, 19)]


def test_a_table_that_was_replaced_is_noticed(bucket):
    index = open_dataset(bucket.base).index
    bucket.save(index.header.table.name, index.table_file()[:-1] + b"x")
    with pytest.raises(CorruptError, match="damaged"):
        keys(open_dataset(bucket.base))


def test_an_index_on_a_web_server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_dataset(tmp_path / "web", [6, 9])
    index_dataset(str(tmp_path / "web"))
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            assert keys(open_dataset(url)) == [f"{n:06d}" for n in range(15)]
            (tmp_path / "web" / "index.json").unlink()
            part = index_dataset(f"{url}/shard-00000{{0..1}}.tar")
            assert (part.index.counts, part.beside) == ((6, 9), False)
        finally:
            server.shutdown()
            thread.join()

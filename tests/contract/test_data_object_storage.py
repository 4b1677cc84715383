"""Datasets in S3 (moto) and on a web server: the same bytes as from disk, and every refusal with its exit code."""

import socket

import pytest

from clip_testkit.httpfaults import refuse
from clip_testkit.s3fault import fault_server
from clip_testkit.s3server import create_bucket, delete_object, s3_server, use_only
from clip_testkit.shards import png, write_dataset
from clip_trainer.data.index.dataset import Dataset, index_dataset, open_dataset
from clip_trainer.data.index.verify import verify_dataset
from clip_trainer.data.pack.folder import ClassFolders
from clip_trainer.data.pack.pack import pack, read_class_names
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.source_http import HttpSource
from clip_trainer.data.storage.source_s3 import S3Source
from clip_trainer.data.writing.shard_writer import WriteOptions
from clipctl.contract.errors import (
    CannotCreateError,
    CorruptError,
    MissingError,
    PermissionDeniedError,
    UnavailableError,
)

NO_WAITING = RetryPolicy(attempts=3, sleep=lambda seconds: None)


@pytest.fixture(scope="module")
def endpoint():
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def environment(endpoint, monkeypatch, tmp_path):
    use_only(monkeypatch, endpoint, tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def local(tmp_path):
    write_dataset(tmp_path / "local", [6, 9])
    return tmp_path / "local"


@pytest.fixture
def bucket(local, request, endpoint):
    """A bucket of its own for each test, holding the local dataset below `d/`."""
    name = "b" + str(abs(hash(request.node.name)))[:20]
    create_bucket(endpoint, name)
    source = S3Source(f"s3://{name}/d")
    for shard in local.glob("*.tar"):
        source.save(shard.name, shard.read_bytes())
    return f"s3://{name}/d"


def keys(dataset, **options):
    reader = dataset.open_reader(ReadHints(**options))
    return [reader.read(s, i).key for s, count in enumerate(dataset.index.counts) for i in range(count)]


def test_a_dataset_in_s3_is_the_dataset_on_disk(bucket, local):
    remote, disk = open_dataset(bucket), open_dataset(str(local))
    assert remote.index.identity == disk.index.identity
    assert all(shard.etag for shard in remote.index.shards)
    assert keys(remote) == keys(remote, cache_bytes=0) == keys(disk)
    again = open_dataset(bucket)
    assert again.index == remote.index
    small = min(shard.bytes for shard in remote.index.shards)
    assert again.source.counters.bytes_read < small, "the index was written beside the shards"
    assert verify_dataset(bucket, deep=True).ok
    assert keys(Dataset.attach(bucket, remote.payload())) == keys(disk)


def test_patterns_and_single_shards_in_s3(bucket):
    open_dataset(bucket)
    assert open_dataset(f"{bucket}/shard-{{000000..000001}}.tar").index.counts == (6, 9)
    assert open_dataset(f"{bucket}/shard-000001.tar").index.counts == (9,)


def test_blocks_keep_requests_few(bucket):
    dataset = open_dataset(bucket)
    before = dataset.source.counters.requests
    keys(dataset)
    assert dataset.source.counters.requests - before == 2, "one block per shard"


def test_a_replaced_object_is_noticed_by_its_etag(bucket):
    source = open_dataset(bucket).source
    content = bytearray(source.load("shard-000000.tar"))
    content[700] ^= 1
    source.save("shard-000000.tar", bytes(content))
    with pytest.raises(CorruptError, match=r"shard-000000\.tar has been replaced"):
        open_dataset(bucket)
    assert index_dataset(bucket, force=True).index.samples == 15


def test_a_replaced_object_is_noticed_while_reading(bucket):
    dataset = open_dataset(bucket)
    content = bytearray(dataset.source.load("shard-000000.tar"))
    content[700] ^= 1
    dataset.source.save("shard-000000.tar", bytes(content))
    with pytest.raises(CorruptError, match="changed while it was being read"):
        keys(dataset)


def test_a_shortened_object_is_noticed_while_reading(bucket):
    dataset = open_dataset(bucket)
    dataset.source.save("shard-000001.tar", b"short")
    with pytest.raises(CorruptError, match=r"shard-000001\.tar"):
        keys(dataset, cache_bytes=0)


def test_missing_things_in_s3(bucket, endpoint):
    with pytest.raises(MissingError, match="nothing"):
        open_dataset(bucket + "/nothing")
    with pytest.raises(MissingError, match="no-such-bucket"):
        open_dataset("s3://no-such-bucket/d")
    with pytest.raises(MissingError, match=r"shard-000007\.tar"):
        open_dataset(f"{bucket}/shard-000007.tar")
    open_dataset(bucket)
    delete_object(endpoint, f"/{bucket.removeprefix('s3://')}/shard-000001.tar")
    with pytest.raises(MissingError, match=r"shard-000001\.tar"):
        open_dataset(bucket)


def test_no_credentials(monkeypatch, bucket):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(PermissionDeniedError) as caught:
        open_dataset(bucket)
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_unreachable_store(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{unused.getsockname()[1]}")
        source = S3Source("s3://bucket/d", retry=NO_WAITING)
        with pytest.raises(UnavailableError) as caught:
            source.info("x.tar")
    assert source.counters.retries == 2
    assert "AWS_ENDPOINT_URL_S3" in caught.value.hint


def test_packing_straight_into_s3(bucket, tmp_path):
    for number in range(6):
        folder = tmp_path / "pictures" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    items = ClassFolders(tmp_path / "pictures", templates=["a {}"])
    assert pack(items, bucket + "/packed", WriteOptions(samples_per_shard=4)).shards == 2
    assert open_dataset(bucket + "/packed").index.counts == (4, 2)
    assert read_class_names(bucket + "/packed") == ("class0", "class1")
    with pytest.raises(CannotCreateError, match="holds shards"):
        pack(items, bucket + "/packed")


@pytest.fixture
def web(local):
    objects = {f"/{path.name}": path.read_bytes() for path in local.glob("*.tar")}
    with fault_server(objects) as server:
        yield server


def with_index(web, local):
    """The web server also has the index of the shards."""
    open_dataset(str(local))
    web.objects |= {f"/{path.name}": path.read_bytes() for path in local.glob("index*")}


def test_a_dataset_on_a_web_server(web, local):
    with pytest.raises(MissingError, match="cannot be listed"):
        open_dataset(web.url)
    by_pattern = open_dataset(web.url + "/shard-{000000..000001}.tar")
    disk = open_dataset(str(local))
    assert by_pattern.index.identity == disk.index.identity
    assert keys(by_pattern) == keys(disk)
    with_index(web, local)
    by_index = open_dataset(web.url)
    assert keys(by_index, cache_bytes=0) == keys(disk)
    with pytest.raises(CannotCreateError):
        by_index.source.save("x", b"")


def test_a_server_without_ranges_is_slow_but_right(web, local):
    with_index(web, local)
    web.ranges = False
    assert keys(open_dataset(web.url), cache_bytes=0) == keys(open_dataset(str(local)))


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_faults_are_retried_and_counted(web, local, status):
    with_index(web, local)
    source = HttpSource(web.url, retry=NO_WAITING)
    dataset = open_dataset(web.url, source=source)
    web.add(refuse(status), times=2)
    assert len(keys(dataset)) == 15
    assert source.counters.retries == 2


@pytest.mark.parametrize(
    ("status", "error"), [(503, UnavailableError), (403, PermissionDeniedError), (404, MissingError)]
)
def test_lasting_faults_are_typed(web, local, status, error):
    with_index(web, local)
    dataset = open_dataset(web.url, source=HttpSource(web.url, retry=NO_WAITING))
    web.add(refuse(status))
    with pytest.raises(error):
        keys(dataset)

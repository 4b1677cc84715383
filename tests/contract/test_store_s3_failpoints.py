"""A store on S3 passes its failpoints, and what was interrupted there can be done again."""

import pytest

from clip_testkit.s3server import create_bucket, s3_server, use_only
from clipctl.contract.errors import UnavailableError
from clipctl.contract.failpoints import armed
from clipctl.contract.store import open_store


@pytest.fixture(scope="module")
def endpoint():
    with s3_server() as address:
        create_bucket(address, "failpoints")
        yield address


@pytest.fixture
def store(endpoint, monkeypatch, tmp_path):
    import s3fs

    use_only(monkeypatch, endpoint, tmp_path / "nowhere")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield open_store("s3://failpoints/run")
    s3fs.S3FileSystem.clear_instance_cache()


def one_of_each(store):
    """Everything that is done to a store; the objects in it afterwards."""
    store.write("a", b"1")
    assert store.read("a") == b"1"
    store.create("b", b"2")
    data, version = store.read_version("a")
    store.replace("a", data, version)
    found = store.list("")
    store.delete("b")
    return {info.key for info in found}


@pytest.mark.parametrize(
    "name",
    ["store.s3.write", "store.s3.read", "store.s3.put_if", "store.s3.put_done", "store.s3.list", "store.s3.delete"],
)
def test_it_passes_them(store, name):
    with armed(f"{name}=error:unavailable") as fired, pytest.raises(UnavailableError, match="says so"):
        one_of_each(store)
    assert set(fired) == {name}
    assert one_of_each(store) >= {"a", "b"}

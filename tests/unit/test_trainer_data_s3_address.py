"""Addresses of objects, and the settings they come from."""

import pytest

from clip_trainer.data.storage import s3_address
from clip_trainer.data.storage.s3_address import Bucket, S3Settings, settings_from, split_location
from clip_trainer.data.storage.source_credentials import ProfileSettings
from clipctl.contract.errors import SpecError

AWS = S3Settings(None, "eu-west-1", False, None)
OWN = S3Settings("http://store:9000", "us-east-1", False, None)


@pytest.mark.parametrize(
    ("settings", "bucket", "key", "url"),
    [
        (AWS, "data", "d/a.tar", "https://data.s3.eu-west-1.amazonaws.com/d/a.tar"),
        (AWS, "my.data", "a.tar", "https://s3.eu-west-1.amazonaws.com/my.data/a.tar"),
        (AWS, "My_Data", "a.tar", "https://s3.eu-west-1.amazonaws.com/My_Data/a.tar"),
        (AWS._replace(region="cn-north-1"), "data", "a", "https://data.s3.cn-north-1.amazonaws.com.cn/a"),
        (OWN, "data", "d/a.tar", "http://store:9000/data/d/a.tar"),
        (OWN._replace(endpoint="https://h/s3/"), "data", "a", "https://h/s3/data/a"),
        (OWN, "data", "", "http://store:9000/data/"),
        (OWN, "data", "a b+c&d=e?f#g%h/ü", "http://store:9000/data/a%20b%2Bc%26d%3De%3Ff%23g%25h/%C3%BC"),
        (OWN, "data", "a-_.~b", "http://store:9000/data/a-_.~b"),
    ],
)
def test_addresses(settings, bucket, key, url):
    assert Bucket(settings, bucket).url(key).geturl() == url


def test_queries_are_encoded_as_they_are_signed():
    url = Bucket(OWN, "data").url(query={"prefix": "a b/ü+", "continuation-token": "1/2=="})
    assert url.query == "prefix=a%20b%2F%C3%BC%2B&continuation-token=1%2F2%3D%3D"


@pytest.mark.parametrize(
    ("base", "bucket", "prefix"),
    [
        ("s3://data", "data", ""),
        ("s3://data/", "data", ""),
        ("s3://data/a/b", "data", "a/b/"),
        ("s3://d1/a/", "d1", "a/"),
    ],
)
def test_locations(base, bucket, prefix):
    assert split_location(base) == (bucket, prefix)


@pytest.mark.parametrize(
    "base", ["s3://", "s3:///x", "s3://key:secret@bucket/x", "s3://a", "s3://arn:aws:s3:x", "s3://a b/c"]
)
def test_what_no_bucket_can_be_called_is_refused(base):
    with pytest.raises(SpecError) as caught:
        split_location(base)
    assert "secret" not in str(caught.value)


@pytest.fixture
def nothing(tmp_path):
    return {"AWS_CONFIG_FILE": str(tmp_path / "none")}


def test_settings_come_from_the_environment(nothing, monkeypatch):
    monkeypatch.setattr(s3_address, "profile_settings", lambda: pytest.fail("botocore was asked"))
    assert settings_from(nothing) == S3Settings(None, "us-east-1", False, None)
    general = {**nothing, "AWS_ENDPOINT_URL": "http://all", "AWS_DEFAULT_REGION": "eu-north-1"}
    assert settings_from(general) == S3Settings("http://all", "eu-north-1", False, None)
    special = {**general, "AWS_ENDPOINT_URL_S3": "http://s3", "AWS_REGION": "eu-west-1", "AWS_CA_BUNDLE": "/ca.pem"}
    assert settings_from(special) == S3Settings("http://s3", "eu-west-1", False, "/ca.pem")


@pytest.mark.parametrize(("value", "anonymous"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_public_buckets_need_no_signature(nothing, value, anonymous):
    assert settings_from({**nothing, "FSSPEC_S3_ANON": value}).anonymous is anonymous


def test_a_profile_fills_in_what_the_environment_leaves_open(tmp_path, monkeypatch):
    (tmp_path / "config").touch()
    written = {"AWS_CONFIG_FILE": str(tmp_path / "config")}
    monkeypatch.setattr(s3_address, "profile_settings", lambda: ProfileSettings("http://p", "eu-west-3", "/p.pem"))
    assert settings_from(written) == S3Settings("http://p", "eu-west-3", False, "/p.pem")
    mine = {**written, "AWS_REGION": "eu-west-1", "AWS_CA_BUNDLE": "/ca.pem"}
    assert settings_from(mine) == S3Settings("http://p", "eu-west-1", False, "/ca.pem")
    monkeypatch.setattr(s3_address, "profile_settings", lambda: ProfileSettings(None, None, None))
    assert settings_from(written).region == "us-east-1"

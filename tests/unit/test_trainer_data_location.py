"""What data.train may say."""

import os

import pytest

from clip_trainer.data.storage.location import MAX_SHARDS, expand_braces, parse_location
from clipctl.contract.errors import ExitCode, SpecError


@pytest.mark.parametrize(
    ("url", "scheme", "base", "names"),
    [
        ("data/train", "", "data/train", None),
        ("data/train/", "", "data/train", None),
        ("/data/train", "", "/data/train", None),
        ("file:///data/train", "", "/data/train", None),
        ("s3://bucket/train/", "s3", "s3://bucket/train", None),
        ("s3://bucket", "s3", "s3://bucket", None),
        ("https://host/x", "https", "https://host/x", None),
        ("shard-0.tar", "", ".", ("shard-0.tar",)),
        ("/shard-0.tar", "", "/", ("shard-0.tar",)),
        ("s3://b/d/shard-0.tar", "s3", "s3://b/d", ("shard-0.tar",)),
        ("d/s-{08..11}.tar", "", "d", ("s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar")),
        ("s-{a,b}.tar", "", ".", ("s-a.tar", "s-b.tar")),
        ("s3://b/{x,y}/s-{0..1}.tar", "s3", "s3://b", ("x/s-0.tar", "x/s-1.tar", "y/s-0.tar", "y/s-1.tar")),
    ],
)
def test_locations(url, scheme, base, names):
    assert parse_location(url) == (scheme, base, names)


def test_home_directory_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", os.sep + "home-of-x")
    assert parse_location("~/data").base == "/home-of-x/data"


@pytest.mark.parametrize(
    "url", ["pipe:cat x.tar", "nosuch://x/y", "s4:bucket", "simplecache::s3://b/x", "memory:x", "", "  ", "a\0b"]
)
def test_refused_locations(url):
    with pytest.raises(SpecError) as caught:
        parse_location(url)
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize("scheme", ["gs", "az", "abfs", "memory", "hf", "sftp"])
def test_what_fsspec_knows_is_a_location(scheme):
    assert parse_location(f"{scheme}://x/y-{{0..1}}.tar") == (scheme, f"{scheme}://x", ("y-0.tar", "y-1.tar"))


def test_commands_are_locations_only_where_they_are_allowed(monkeypatch):
    url = "pipe:aws s3 cp s3://b/{000..002}.tar -"
    with pytest.raises(SpecError, match="not run unless") as caught:
        parse_location(url)
    assert "CLIPCTL_ALLOW_PIPE=1" in caught.value.hint
    monkeypatch.setenv("CLIPCTL_ALLOW_PIPE", "1")
    names = ("shard-000000.tar", "shard-000001.tar", "shard-000002.tar")
    assert parse_location(url) == ("pipe", url, names)
    assert parse_location("pipe:cat x").names == ("shard-000000.tar",)


@pytest.mark.parametrize(
    "pattern", ["{0..1", "0..1}", "{a{b,c}}", "{3..1}", "{abc}", "{}", "{a,a}", "{0..9999999999999999999}"]
)
def test_refused_patterns(pattern):
    with pytest.raises(SpecError):
        expand_braces(pattern)


def test_enormous_patterns_are_counted_not_expanded():
    with pytest.raises(SpecError, match="1000000000 shards"):
        expand_braces("s-{000000000..999999999}.tar")
    with pytest.raises(SpecError, match="shards"):
        expand_braces("{0..999}" * 20)
    assert len(expand_braces("{000000..999999}")) == MAX_SHARDS


def test_numbers_keep_their_padding():
    assert expand_braces("{098..101}") == ("098", "099", "100", "101")
    assert expand_braces("{9..11}") == ("9", "10", "11")
    assert expand_braces("plain") == ("plain",)

"""How weights are named, what the environment says, and the pieces that need no server."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit.fetching import ImpatientClock
from clip_trainer.pretrained import digests, httperrors, registry
from clip_trainer.pretrained.digests import Expected, check, digest_in_url, expected_from_etag
from clip_trainer.pretrained.locations import (
    HubLocation,
    PathLocation,
    UrlLocation,
    is_location,
    parse_location,
    weights_in,
)
from clip_trainer.pretrained.patience import Patience, TransientError
from clip_trainer.pretrained.settings import HUB_ENDPOINT, from_environment
from clipctl.contract.errors import ClipError, CorruptError, MissingError, SpecError, UnavailableError

COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("hf-hub:org/model", HubLocation("org/model")),
        ("hf-hub:org/model/file.bin", HubLocation("org/model", None, "file.bin")),
        ("hf-hub:org/model/onnx/file.bin", HubLocation("org/model", None, "onnx/file.bin")),
        (f"hf-hub:org/model@{COMMIT}", HubLocation("org/model", COMMIT)),
        ("hf-hub:org/model@v1.0/sub/file", HubLocation("org/model", "v1.0", "sub/file")),
        ("hf-hub:org/model@refs%2Fpr%2F1/f", HubLocation("org/model", "refs/pr/1", "f")),
        ("hf-hub:bert-base-uncased", HubLocation("bert-base-uncased")),
        ("https://host/a/b%20c.pt?x=1", UrlLocation("https://host/a/b%20c.pt?x=1")),
        ("s3://bucket/weights.safetensors", UrlLocation("s3://bucket/weights.safetensors")),
        ("file:///a/b.pt", PathLocation(Path("/a/b.pt"))),
        ("local-dir:some/where", PathLocation(Path("some/where"))),
        ("weights.pt", PathLocation(Path("weights.pt"))),
        ("/a/weights.pt", PathLocation(Path("/a/weights.pt"))),
    ],
)
def test_locations(text, location):
    assert parse_location(text) == location


@pytest.mark.parametrize(
    "text",
    [
        *("hf-hub:", "hf-hub:/", "hf-hub:org/", "hf-hub:../x", "hf-hub:org/..", "hf-hub:a--b/c", "hf-hub:org/m@"),
        *("hf-hub:org/m@../x", "hf-hub:org/m/../../etc/passwd", "hf-hub:org/m//f", "hf-hub:o rg/m", "hf-hub:org/m\n"),
        *("local-dir:", "ftp://host/file", "pipe://cat", "https://host/", "https://host/..", "s3://"),
    ],
)
def test_locations_that_are_refused(text):
    with pytest.raises(SpecError) as caught:
        parse_location(text)
    assert caught.value.code == 64


@given(st.text(max_size=60))
def test_any_text_is_a_location_or_a_spec_error(text):
    for prefix in ("", "hf-hub:", "hf-hub:org/model@", "hf-hub:org/model/", "https://h/", "local-dir:"):
        try:
            place = parse_location(prefix + text)
        except ClipError:
            continue
        if isinstance(place, HubLocation):
            assert ".." not in f"{place.repository}/{place.revision}/{place.filename}".split("/")
            assert not place.filename.startswith("/")
        if isinstance(place, UrlLocation):
            assert "/" not in place.name or "%2F" in place.url.upper()


def test_a_name_with_an_escaped_slash_stays_in_its_directory():
    assert UrlLocation("https://host/a%2F..%2F..%2Fb").name == "b"


@pytest.mark.parametrize("tag", ["openai", "laion2b_s34b_b79k", "LAION400M-e31"])
def test_tags_are_no_locations(tag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_location(tag)
    (tmp_path / tag).touch()
    assert is_location(tag)


@pytest.mark.parametrize("text", ["hf-hub:a/b", "local-dir:a", "https://h/f", "s3://b/k", "./f", "/f", "~/f"])
def test_places_are_locations(text):
    assert is_location(text)


def test_weights_in_a_directory(tmp_path):
    with pytest.raises(MissingError, match="no directory"):
        weights_in(tmp_path / "none")
    with pytest.raises(MissingError, match="no weights"):
        weights_in(tmp_path)
    (tmp_path / "mine.pt").touch()
    assert weights_in(tmp_path).name == "mine.pt"
    (tmp_path / "other.bin").touch()
    with pytest.raises(SpecError, match=r"several.*mine\.pt, other\.bin"):
        weights_in(tmp_path)
    (tmp_path / "open_clip_pytorch_model.bin").touch()
    assert weights_in(tmp_path).name == "open_clip_pytorch_model.bin"
    (tmp_path / "open_clip_model.safetensors").touch()
    assert weights_in(tmp_path).name == "open_clip_model.safetensors"


def test_settings_of_an_empty_environment(monkeypatch):
    monkeypatch.setenv("HOME", "/nobody")
    settings = from_environment(environ={})
    assert settings.hub_cache == Path("/nobody/.cache/huggingface/hub")
    assert settings.url_cache == Path("/nobody/.cache/clip")
    assert (settings.offline, settings.mirror, settings.token) == (False, None, None)
    assert settings.endpoint == HUB_ENDPOINT


@pytest.mark.parametrize(
    ("environ", "hub_cache"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/c", "HF_HOME": "/b"}, "/c"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/d"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_hubs_own_tools_have_it(environ, hub_cache):
    assert from_environment(environ=environ).hub_cache == Path(hub_cache)


def test_a_cache_directory_given_by_hand_replaces_both(tmp_path):
    settings = from_environment(tmp_path, {"HF_HOME": "/b"})
    assert settings.hub_cache == settings.url_cache == tmp_path


@pytest.mark.parametrize("name", ["CLIPCTL_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("TRUE", True), ("yes", True), (" on ", True), ("0", False), ("", False)]
)
def test_offline(name, value, offline):
    assert from_environment(environ={name: value}).offline is offline


def test_tokens(tmp_path):
    (tmp_path / "token").write_text("from_file\n")
    home = {"HF_HOME": str(tmp_path)}
    assert from_environment(environ=home).token == "from_file"
    assert from_environment(environ={**home, "HF_TOKEN": " given\n"}).token == "given"
    assert from_environment(environ={**home, "HUGGING_FACE_HUB_TOKEN": "old"}).token == "old"
    assert from_environment(environ={**home, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}).token is None
    assert from_environment(environ={**home, "HF_TOKEN": ""}).token == "from_file"
    assert from_environment(environ={"HF_TOKEN_PATH": str(tmp_path / "token")}).token == "from_file"


def test_addresses_lose_their_trailing_slash():
    settings = from_environment(environ={"HF_ENDPOINT": "https://hub.example/", "CLIPCTL_MIRROR": "s3://b/m/"})
    assert (settings.endpoint, settings.mirror) == ("https://hub.example", "s3://b/m")


def test_digests_in_addresses_agree_with_the_registry():
    for pair in registry.list_pretrained():
        entry = registry.entry(*pair)
        if entry.url:
            assert digest_in_url(entry.url) == entry.sha256


@pytest.mark.parametrize("url", ["https://host/file-00efa78f.pt", "https://host/mlfoundations/file.pt", "", "x"])
def test_other_addresses_hold_no_digest(url):
    assert digest_in_url(url) is None


def test_what_an_etag_says():
    assert expected_from_etag("a" * 64, 5) == Expected(sha256="a" * 64, size=5)
    assert expected_from_etag("b" * 40) == Expected(git_blob="b" * 40)
    assert not expected_from_etag("d41d8cd98f00b204e9800998ecf8427e-5").verifiable
    assert not expected_from_etag(None).verifiable


@given(st.binary(max_size=300), st.integers(8, 64))
def test_check_accepts_the_content_and_nothing_else(tmp_path_factory, content, digits):
    path = tmp_path_factory.mktemp("check") / "file"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert check(path, Expected(sha256[:digits], git, len(content)), "it") == sha256 == digests.sha256_of(path)
    path.write_bytes(content + b"!")
    for wrong in (Expected(sha256=sha256[:digits]), Expected(git_blob=git), Expected(size=len(content))):
        with pytest.raises(CorruptError):
            check(path, wrong, "it")


def test_patience_doubles_its_waits_up_to_a_cap_and_ends():
    clock = ImpatientClock()
    patience = Patience(100, clock)
    for _ in range(9):
        patience.wait_after(TransientError("busy."))
    with pytest.raises(UnavailableError, match="gave up after 100 s") as caught:
        patience.wait_after(TransientError("busy."))
    assert clock.slept == [0.5, 1, 2, 4, 8, 16, 20, 20, 20]
    assert not isinstance(caught.value, TransientError)


def unreachable():
    error = TransientError("nobody there.")
    error.unreachable = True
    return error


def test_where_nobody_ever_answered_less_time_is_wasted():
    clock = ImpatientClock()
    patience = Patience(180, clock)
    for _ in range(5):
        patience.wait_after(unreachable())
    with pytest.raises(UnavailableError, match="gave up after 30 s"):
        patience.wait_after(unreachable())
    assert sum(clock.slept) < 30


def test_a_network_that_fails_halfway_gets_the_full_time():
    clock = ImpatientClock()
    patience = Patience(180, clock)
    patience.progressed()
    for _ in range(13):
        patience.wait_after(unreachable())
    with pytest.raises(UnavailableError, match="gave up after 180 s"):
        patience.wait_after(unreachable())
    assert 140 < sum(clock.slept) < 180


def test_each_wait_is_logged(caplog):
    Patience(100, ImpatientClock()).wait_after(TransientError("https://h/f: busy."))
    assert caplog.messages == ["https://h/f: busy. Trying again in 0.5 s."]


def test_progress_gives_new_patience():
    clock = ImpatientClock()
    patience = Patience(10, clock)
    for _ in range(50):
        patience.wait_after(TransientError("busy."))
        patience.wait_after(TransientError("busy."))
        patience.progressed()
    assert clock.slept == [0.5, 1.0] * 50


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5", 5), ("-5", 0), ("1e9", 3600), ("nan", 0), ("soon", 0), ("", 0), ("Fri, 01 Jan 2100 00:00:00 GMT", 3600)],
)
def test_retry_after_is_bounded(value, seconds):
    error = httperrors.of_status(503, {"Retry-After": value}, "https://host/x")
    assert isinstance(error, TransientError)
    assert error.retry_after == seconds


def test_errors_show_addresses_without_signatures_and_credentials():
    error = httperrors.of_status(404, {}, "https://user:secret@host:81/a?X-Amz-Signature=secret")
    assert "secret" not in str(error)
    assert "https://host:81/a" in error.problem


def test_an_untrusted_certificate_is_not_tried_again():
    error = httperrors.of_connection(OSError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "https://host/x")
    assert not isinstance(error, TransientError)
    assert "SSL_CERT_FILE" in error.hint

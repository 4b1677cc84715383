"""The hub's protocol against a real server: cache layout, candidates, revisions, tokens, errors."""

import hashlib
import json
import os

import pytest

from clip_testkit.fetching import fetch_settings
from clip_testkit.weightserver import COMMIT, Fault, serving
from clip_trainer.pretrained import digests
from clip_trainer.pretrained import hub as hub_module
from clip_trainer.pretrained.fetching import WEIGHTS, Fetcher, candidates
from clip_trainer.pretrained.httperrors import NotInRepositoryError
from clip_trainer.pretrained.hub import Hub
from clipctl.contract.errors import (
    CorruptError,
    MissingError,
    PermissionDeniedError,
    UnavailableError,
)

CONTENT = b"weights" * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPO = "org/model"
SAFE, PICKLED = WEIGHTS
OTHER = "f" * 40


@pytest.fixture(name="server")
def _server():
    with serving() as server:
        yield server


@pytest.fixture(name="settings")
def _settings(server, tmp_path):
    return fetch_settings(tmp_path, server)


def folder(tmp_path):
    return tmp_path / "hub" / "models--org--model"


def test_a_large_file_lies_in_the_layout_that_all_tools_share(server, settings, tmp_path):
    server.add_hub_file(REPO, SAFE, CONTENT)
    path = Hub(settings).fetch(REPO, SAFE)
    assert path == folder(tmp_path) / "snapshots" / COMMIT / SAFE
    assert path.read_bytes() == CONTENT
    assert os.readlink(path) == f"../../blobs/{SHA256}"
    assert (folder(tmp_path) / "refs" / "main").read_text() == COMMIT
    assert sorted(p.name for p in (folder(tmp_path) / "blobs").iterdir()) == [SHA256]
    assert (tmp_path / "hub" / ".locks" / "models--org--model" / f"{SHA256}.lock").is_file()


def test_a_small_file_is_named_and_checked_as_an_object_of_git(server, settings, tmp_path):
    server.add_hub_file(REPO, "open_clip_config.json", b"{}", large=False)
    path = Hub(settings).fetch(REPO, "open_clip_config.json")
    assert path.read_bytes() == b"{}"
    assert path.resolve().name == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # `echo -n {} | git hash-object --stdin`


def test_a_file_in_a_folder_of_the_repository(server, settings):
    server.add_hub_file(REPO, "onnx/model weights.bin", CONTENT)
    path = Hub(settings).fetch(REPO, "onnx/model weights.bin")
    assert path.read_bytes() == CONTENT
    assert os.readlink(path) == f"../../../blobs/{SHA256}"


def test_what_is_in_the_cache_needs_no_request(server, settings):
    server.add_hub_file(REPO, SAFE, CONTENT)
    first = Hub(settings).fetch(REPO, SAFE)
    server.requests.clear()
    assert Hub(settings).fetch(REPO, SAFE) == first
    assert Hub(settings).fetch(REPO, SAFE, COMMIT) == first
    assert server.requests == []


def test_refresh_asks_what_the_branch_means_now(server, settings, tmp_path):
    server.add_hub_file(REPO, SAFE, CONTENT)
    Hub(settings).fetch(REPO, SAFE)
    server.add_hub_file(REPO, SAFE, b"newer", commit=OTHER)
    assert Hub(settings).fetch(REPO, SAFE).read_bytes() == CONTENT
    newer = Hub(settings).fetch(REPO, SAFE, refresh=True)
    assert newer.read_bytes() == b"newer"
    assert (folder(tmp_path) / "refs" / "main").read_text() == OTHER
    assert Hub(settings).fetch(REPO, SAFE).read_bytes() == b"newer"
    assert Hub(settings).fetch(REPO, SAFE, COMMIT).read_bytes() == CONTENT


def test_two_commits_with_the_same_bytes_share_them(server, settings):
    server.add_hub_file(REPO, SAFE, CONTENT)
    Hub(settings).fetch(REPO, SAFE)
    server.add_hub_file(REPO, SAFE, CONTENT, commit=OTHER)
    server.requests.clear()
    path = Hub(settings).fetch(REPO, SAFE, refresh=True)
    assert path.parent.name == OTHER
    assert server.asked(f"/storage/{SHA256}") == []


def test_a_damaged_file_in_the_cache_is_fetched_again(server, settings, caplog):
    server.add_hub_file(REPO, SAFE, CONTENT)
    path = Hub(settings).fetch(REPO, SAFE)
    path.resolve().write_bytes(CONTENT[:-1] + b"?")
    assert Hub(settings).fetch(REPO, SAFE).read_bytes() == CONTENT
    assert "fetched again" in caplog.text


def test_what_another_process_has_mended_meanwhile_is_not_taken_away_from_it(server, settings, monkeypatch):
    server.add_hub_file(REPO, SAFE, CONTENT)
    path = Hub(settings).fetch(REPO, SAFE)
    path.resolve().write_bytes(CONTENT[:-1] + b"?")
    mended = []

    def late(*arguments):
        try:
            return digests.check(*arguments)
        except CorruptError:
            if not mended:
                monkeypatch.setattr(hub_module, "check", digests.check)
                mended.append(Hub(settings).fetch(REPO, SAFE).stat().st_ino)
            raise

    monkeypatch.setattr(hub_module, "check", late)
    assert Hub(settings).fetch(REPO, SAFE) == path
    assert [path.stat().st_ino] == mended, "the other process may be reading it"
    assert len(server.asked(f"/storage/{SHA256}")) == 2


def test_what_another_process_takes_away_as_damaged_is_fetched(server, settings, monkeypatch):
    server.add_hub_file(REPO, SAFE, CONTENT)
    path = Hub(settings).fetch(REPO, SAFE)

    def late(*arguments):
        monkeypatch.setattr(hub_module, "check", digests.check)
        path.resolve().unlink()
        path.unlink()
        return digests.check(*arguments)

    monkeypatch.setattr(hub_module, "check", late)
    assert Hub(settings).fetch(REPO, SAFE).read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_offline_is_corrupt(server, settings, tmp_path):
    server.add_hub_file(REPO, SAFE, CONTENT)
    Hub(settings).fetch(REPO, SAFE).resolve().write_bytes(b"?")
    with pytest.raises(CorruptError):
        Hub(fetch_settings(tmp_path, server, offline=True)).fetch(REPO, SAFE)


def test_a_damaged_download_leaves_no_entry(server, settings, tmp_path):
    served = server.add_hub_file(REPO, SAFE, CONTENT)
    served.content = b"?" * len(CONTENT)
    with pytest.raises(CorruptError):
        Hub(settings).fetch(REPO, SAFE)
    assert list((folder(tmp_path) / "blobs").iterdir()) == []
    assert not (folder(tmp_path) / "snapshots").exists()


def test_a_cut_download_is_resumed_from_the_storage(server, settings):
    server.add_hub_file(REPO, SAFE, CONTENT, faults=[Fault(cut_after=300_000)])
    assert Hub(settings).fetch(REPO, SAFE).read_bytes() == CONTENT
    assert server.asked(f"/storage/{SHA256}")[1].headers["Range"] == "bytes=300000-"


def test_safetensors_come_first_and_pickles_only_if_there_is_nothing_else(server, settings):
    server.add_hub_file(REPO, PICKLED, b"pickled")
    assert Fetcher(settings).location(f"hf-hub:{REPO}").read_bytes() == b"pickled"
    server.add_hub_file("org/other", PICKLED, b"pickled")
    server.add_hub_file("org/other", SAFE, CONTENT)
    assert Fetcher(settings).location("hf-hub:org/other").name == SAFE


@pytest.mark.parametrize(
    ("named", "tried"),
    [
        ("", WEIGHTS),
        (PICKLED, WEIGHTS),
        ("pytorch_model.bin", ("pytorch_model.safetensors", "pytorch_model.bin")),
        ("model.pth", ("model.safetensors", "model.pth")),
        ("model.pt", ("model.pt",)),
        ("tokenizer.json", ("tokenizer.json",)),
    ],
)
def test_candidates_are_those_of_openclip(named, tried):
    assert candidates(named) == tried


def test_a_repository_without_weights(server, settings):
    with pytest.raises(NotInRepositoryError, match="does not exist"):
        Fetcher(settings).location(f"hf-hub:{REPO}")
    assert [request.path.rpartition("/")[2] for request in server.requests] == list(WEIGHTS)


def test_a_refused_candidate_is_not_taken_for_a_missing_one(server, settings):
    """OpenCLIP goes on to the next name and reports FileNotFoundError."""
    served = server.add_hub_file(REPO, SAFE, CONTENT)
    entry = server.files[f"/{REPO}/resolve/main/{SAFE}"]
    entry.faults = [Fault(status=401, headers={"X-Error-Code": "GatedRepo"}, head_too=True)]
    server.add_hub_file(REPO, PICKLED, b"pickled")
    with pytest.raises(PermissionDeniedError, match="granted") as caught:
        Fetcher(settings).location(f"hf-hub:{REPO}")
    assert "HF_TOKEN" in caught.value.hint
    assert len(server.requests) == 1
    assert served.faults == []


@pytest.mark.parametrize(
    ("status", "headers", "error", "words"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, PermissionDeniedError, "does not exist, or is private"),
        (404, {"X-Error-Code": "RepoNotFound"}, MissingError, "no such repository"),
        (404, {"X-Error-Code": "RevisionNotFound"}, MissingError, "no such revision"),
        (404, {"X-Error-Code": "EntryNotFound"}, NotInRepositoryError, "does not exist"),
        (403, {"X-Error-Message": "Access to model is gated"}, PermissionDeniedError, "granted"),
        (401, {"X-Error-Message": "Invalid credentials"}, PermissionDeniedError, "Invalid credentials"),
    ],
)
def test_the_hubs_own_words_for_what_is_wrong(server, settings, status, headers, error, words):
    server.add_hub_file(REPO, SAFE, CONTENT)
    entry = server.files[f"/{REPO}/resolve/main/{SAFE}"]
    entry.faults = [Fault(status=status, headers=headers, head_too=True)]
    with pytest.raises(error, match=words):
        Hub(settings).fetch(REPO, SAFE)


def test_a_hub_that_is_busy_is_asked_again(server, settings):
    server.add_hub_file(REPO, SAFE, CONTENT)
    server.files[f"/{REPO}/resolve/main/{SAFE}"].faults = [Fault(status=503, head_too=True)] * 2
    assert Hub(settings).fetch(REPO, SAFE).read_bytes() == CONTENT
    assert settings.clock.slept == [0.5, 1.0]


def test_a_server_that_is_no_hub_is_told_so(server, settings):
    server.add(f"/{REPO}/resolve/main/{SAFE}", b"<html>hello</html>", etag=None)
    with pytest.raises(UnavailableError, match="does not answer as a hub"):
        Hub(settings).fetch(REPO, SAFE)


def test_the_token_goes_to_the_hub_and_not_to_its_storage(server, tmp_path):
    with serving() as storage:
        storage.add("/bytes", CONTENT)
        server.add_hub_file(REPO, SAFE, CONTENT)
        server.files[f"/{REPO}/resolve/main/{SAFE}"].redirect = f"{storage.url}/bytes?X-Amz-Signature=s"
        Hub(fetch_settings(tmp_path, server, token="hf_secret")).fetch(REPO, SAFE)
        assert {r.headers.get("Authorization") for r in server.requests} == {"Bearer hf_secret"}
        assert [r.headers.get("Authorization") for r in storage.requests] == [None]
        assert [r.method for r in storage.requests] == ["GET"]


def test_a_token_is_never_sent_in_the_clear_over_a_network(tmp_path):
    hub = Hub(fetch_settings(tmp_path, endpoint="http://hub.example", token="hf_secret"))
    assert hub._authorization() == {}
    hub = Hub(fetch_settings(tmp_path, endpoint="https://hub.example", token="hf_secret"))
    assert hub._authorization() == {"Authorization": "Bearer hf_secret"}
    assert "hf_secret" not in repr(fetch_settings(tmp_path, token="hf_secret"))


def test_a_pinned_revision(server, settings, tmp_path):
    server.add_hub_file(REPO, SAFE, CONTENT)
    assert Fetcher(settings).location(f"hf-hub:{REPO}@{COMMIT}").read_bytes() == CONTENT
    assert not (folder(tmp_path) / "refs").exists()


def test_a_description_of_a_repository(server, settings):
    server.add_hub_info(REPO, [SAFE, "tokenizer.json"], "mit")
    info = Hub(settings).info(REPO)
    assert (info.commit, info.files, info.licence) == (COMMIT, (SAFE, "tokenizer.json"), "mit")
    server.add_hub_info(REPO, [], None)
    assert Hub(settings).info(REPO).licence is None


@pytest.mark.parametrize("answer", [b"not json", b"[]", b"{}", json.dumps({"sha": "x", "siblings": [1]}).encode()])
def test_a_description_that_makes_no_sense(server, settings, answer):
    server.add(f"/api/models/{REPO}/revision/main", answer)
    with pytest.raises(UnavailableError, match="makes no sense"):
        Hub(settings).info(REPO)


def test_a_file_system_without_links_gets_copies(server, settings, monkeypatch):
    server.add_hub_file(REPO, SAFE, CONTENT)

    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("clip_trainer.pretrained.hubcache.os.symlink", refuse)
    path = Hub(settings).fetch(REPO, SAFE)
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    assert Hub(settings).fetch(REPO, SAFE) == path


@pytest.mark.parametrize("etag", ["../../../etc/passwd", "a/b", ""])
def test_an_etag_that_would_leave_the_cache_is_refused(server, settings, etag, tmp_path):
    server.add_hub_file(REPO, SAFE, CONTENT)
    entry = server.files[f"/{REPO}/resolve/main/{SAFE}"]
    entry.headers = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{etag}"'}
    with pytest.raises(UnavailableError, match="does not answer as a hub"):
        Hub(settings).fetch(REPO, SAFE)


def test_a_commit_that_would_leave_the_cache_is_refused(server, settings):
    server.add_hub_file(REPO, SAFE, CONTENT)
    server.files[f"/{REPO}/resolve/main/{SAFE}"].headers = {"X-Repo-Commit": "../../up", "X-Linked-Etag": SHA256}
    with pytest.raises(UnavailableError):
        Hub(settings).fetch(REPO, SAFE)

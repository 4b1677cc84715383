"""The caches on the disk: partial files, locks, the hub's layout, the notes beside files fetched by address."""

import hashlib
import json
import os
import stat
import subprocess
import sys

import pytest

from clip_testkit.fetching import fetch_settings
from clip_testkit.weightserver import COMMIT, serving
from clip_trainer.pretrained.hubcache import CachedFile, HubCache
from clip_trainer.pretrained.locations import UrlLocation
from clip_trainer.pretrained.locks import file_lock
from clip_trainer.pretrained.partial import Partial
from clip_trainer.pretrained.urlcache import cached_path, fetch_url
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError

ETAG = hashlib.sha256(b"bytes").hexdigest()


# --- the part of a file ---


def write(partial, start, data, validator='"v"'):
    with partial.writing(start, validator) as writer:
        writer.write(data)


def test_a_part_is_found_again(tmp_path):
    partial = Partial(tmp_path / "w.pt", "https://host/w.pt")
    assert partial.resume() == (0, None)
    write(partial, 0, b"abc")
    assert partial.resume() == (3, '"v"')
    assert Partial(tmp_path / "w.pt", "https://host/w.pt").resume() == (3, '"v"')
    write(partial, 3, b"def")
    assert partial.path.read_bytes() == b"abcdef"


def test_a_part_of_another_source_is_not_gone_on_with(tmp_path):
    write(Partial(tmp_path / "w.pt", "https://host/w.pt"), 0, b"abc")
    assert Partial(tmp_path / "w.pt", "https://other/w.pt").resume() == (0, None)


def test_writing_from_an_earlier_place_drops_what_follows(tmp_path):
    partial = Partial(tmp_path / "w.pt", "s")
    write(partial, 0, b"abcdef")
    write(partial, 2, b"X")
    assert partial.path.read_bytes() == b"abX"


def test_a_part_becomes_the_file_at_once(tmp_path):
    partial = Partial(tmp_path / "w.pt", "s")
    (tmp_path / "w.pt").write_bytes(b"old")
    write(partial, 0, b"new")
    assert (tmp_path / "w.pt").read_bytes() == b"old"
    partial.publish()
    assert (tmp_path / "w.pt").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_a_file_has_the_permissions_of_the_users_mask(tmp_path):
    old = os.umask(0o027)
    try:
        partial = Partial(tmp_path / "w.pt", "s")
        write(partial, 0, b"new")
        partial.publish()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "w.pt").stat().st_mode) == 0o640


def test_discarding_twice_is_fine(tmp_path):
    partial = Partial(tmp_path / "w.pt", "s")
    write(partial, 0, b"abc")
    partial.discard()
    partial.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_the_way_is_told(tmp_path):
    (tmp_path / "w.pt").mkdir()
    partial = Partial(tmp_path / "w.pt", "s")
    write(partial, 0, b"abc")
    with pytest.raises(CannotCreateError, match=r"w\.pt"):
        partial.publish()


def test_a_file_in_place_of_a_directory_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CannotCreateError):
        write(Partial(tmp_path / "file" / "w.pt", "s"), 0, b"abc")


# --- locks ---


def test_a_free_lock_is_taken_without_a_word(tmp_path):
    said = []
    with file_lock(tmp_path / "deep" / "lock", lambda: said.append(1)):
        assert (tmp_path / "deep" / "lock").is_file()
    with file_lock(tmp_path / "deep" / "lock", lambda: said.append(1)):
        pass
    assert said == []


def test_a_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), file_lock(tmp_path / "lock"):
        _ = 1 / 0
    said = []
    with file_lock(tmp_path / "lock", lambda: said.append(1)):
        assert said == []


HOLDER = """
import sys
from pathlib import Path
from clip_trainer.pretrained.locks import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_of_another_process_is_waited_for(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        said = []

        def let_go():
            said.append("waiting")
            holder.stdin.write("\n")
            holder.stdin.flush()

        with file_lock(tmp_path / "lock", let_go):
            assert said == ["waiting"]


def test_a_lock_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CannotCreateError), file_lock(tmp_path / "file" / "lock"):
        pass


# --- the hub's layout ---


@pytest.fixture(name="cache")
def _cache(tmp_path):
    cache = HubCache(tmp_path)
    blob = cache.blob("org/model", ETAG)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"bytes")
    return cache


def test_nothing_is_found_in_an_empty_cache(tmp_path):
    assert HubCache(tmp_path / "none").find("org/model", "main", "f") is None
    assert HubCache(tmp_path / "none").find("org/model", COMMIT, "f") is None


def test_a_linked_file_is_found_by_commit_and_by_branch(cache):
    path = cache.link("org/model", COMMIT, "sub/f", ETAG)
    assert cache.find("org/model", COMMIT, "sub/f") == CachedFile(path, COMMIT)
    assert cache.find("org/model", "main", "sub/f") is None
    cache.remember("org/model", "main", COMMIT)
    assert cache.find("org/model", "main", "sub/f") == CachedFile(path, COMMIT)
    assert cache.find("org/model", "main", "other") is None
    assert path.read_bytes() == b"bytes"


def test_a_branch_with_slashes(cache):
    cache.link("org/model", COMMIT, "f", ETAG)
    cache.remember("org/model", "refs/pr/1", COMMIT)
    assert cache.find("org/model", "refs/pr/1", "f") is not None


def test_linking_twice_keeps_the_link(cache):
    path = cache.link("org/model", COMMIT, "f", ETAG)
    before = os.lstat(path).st_ino
    assert cache.link("org/model", COMMIT, "f", ETAG) == path
    assert os.lstat(path).st_ino == before


def test_a_link_to_other_bytes_is_replaced(cache):
    other = hashlib.sha256(b"other").hexdigest()
    cache.blob("org/model", other).write_bytes(b"other")
    path = cache.link("org/model", COMMIT, "f", ETAG)
    cache.link("org/model", COMMIT, "f", other)
    assert path.read_bytes() == b"other"
    assert cache.blob("org/model", ETAG).read_bytes() == b"bytes"


def test_a_link_that_leads_nowhere_is_no_file(cache):
    cache.link("org/model", COMMIT, "f", ETAG)
    cache.blob("org/model", ETAG).unlink()
    assert cache.find("org/model", COMMIT, "f") is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../../up", b"a b", b"x\ny"])
def test_a_damaged_reference_is_no_reference(cache, tmp_path, content):
    cache.remember("org/model", "main", COMMIT)
    (tmp_path / "models--org--model" / "refs" / "main").write_bytes(content)
    assert cache.find("org/model", "main", "f") is None


def test_forgetting_removes_link_and_bytes(cache):
    path = cache.link("org/model", COMMIT, "f", ETAG)
    cache.forget(CachedFile(path, COMMIT))
    assert not path.is_symlink()
    assert not cache.blob("org/model", ETAG).exists()


def test_what_a_cached_file_must_be_stands_in_the_name_of_its_bytes(cache):
    path = cache.link("org/model", COMMIT, "f", ETAG)
    assert CachedFile(path, COMMIT).expected.sha256 == ETAG
    plain = path.with_name("plain")
    plain.write_bytes(b"x")
    assert not CachedFile(plain, COMMIT).expected.verifiable


def test_a_commit_needs_no_reference(cache, tmp_path):
    cache.remember("org/model", COMMIT, COMMIT)
    assert not (tmp_path / "models--org--model" / "refs").exists()


def test_a_repository_without_an_organisation(tmp_path):
    assert HubCache(tmp_path).blob("bert-base-uncased", ETAG) == tmp_path / "models--bert-base-uncased" / "blobs" / ETAG


# --- files fetched by address ---


@pytest.fixture(name="server")
def _server():
    with serving() as server:
        yield server


def test_the_note_is_that_of_sha256sum(server, tmp_path):
    server.add("/w file.pt", b"bytes")
    path = fetch_url(UrlLocation(f"{server.url}/w%20file.pt"), fetch_settings(tmp_path, server))
    assert path.name == "w file.pt"
    done = subprocess.run(["sha256sum", "--check", f"{path.name}.sha256"], cwd=path.parent, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("note", [b"", b"\xff", b"nonsense"])
def test_a_damaged_note_is_no_reason_to_lose_a_file_silently(server, tmp_path, note):
    server.add("/w.pt", b"bytes")
    settings = fetch_settings(tmp_path, server)
    path = fetch_url(UrlLocation(f"{server.url}/w.pt"), settings)
    path.with_name("w.pt.sha256").write_bytes(note)
    assert fetch_url(UrlLocation(f"{server.url}/w.pt"), settings).read_bytes() == b"bytes"


def test_addresses_that_differ_in_their_query_are_different_files(tmp_path):
    settings = fetch_settings(tmp_path)
    first, second = (cached_path(UrlLocation(f"https://h/w.pt?v={v}"), settings, None) for v in (1, 2))
    assert first != second
    assert first.name == second.name == "w.pt"


def test_with_a_digest_the_name_is_enough(tmp_path):
    settings = fetch_settings(tmp_path)
    assert cached_path(UrlLocation("https://h/w.pt"), settings, "a" * 64) == tmp_path / "urls" / "w.pt"


def test_another_file_of_the_same_name_with_a_digest_is_replaced(server, tmp_path, caplog):
    settings = fetch_settings(tmp_path, server)
    server.add("/w.pt", b"bytes")
    (tmp_path / "urls").mkdir()
    (tmp_path / "urls" / "w.pt").write_bytes(b"somebody else's")
    path = fetch_url(UrlLocation(f"{server.url}/w.pt"), settings, sha256=ETAG)
    assert path.read_bytes() == b"bytes"
    assert "fetched again" in caplog.text


def test_a_failed_refresh_keeps_what_was_there(server, tmp_path):
    settings = fetch_settings(tmp_path, server)
    server.add("/w.pt", b"bytes")
    path = fetch_url(UrlLocation(f"{server.url}/w.pt"), settings)
    del server.files["/w.pt"]
    with pytest.raises(MissingError):
        fetch_url(UrlLocation(f"{server.url}/w.pt"), settings, refresh=True)
    assert path.read_bytes() == b"bytes"


def test_a_digest_beside_the_file_only_counts_where_none_is_known(server, tmp_path):
    settings = fetch_settings(tmp_path, server)
    server.add("/w.pt", b"bytes")
    server.add("/w.pt.sha256", b"0" * 64)
    place = UrlLocation(f"{server.url}/w.pt")
    assert fetch_url(place, settings, sha256=ETAG, sidecar=True).read_bytes() == b"bytes"
    with pytest.raises(CorruptError):
        fetch_url(UrlLocation(f"{server.url}/w.pt?other"), settings, sidecar=True)
    assert server.asked("/w.pt.sha256")[0].method == "GET"


def test_without_a_digest_beside_it_the_file_is_taken_as_it_comes(server, tmp_path):
    server.add("/w.pt", b"bytes")
    path = fetch_url(UrlLocation(f"{server.url}/w.pt"), fetch_settings(tmp_path, server), sidecar=True)
    assert path.read_bytes() == b"bytes"
    assert len(server.asked("/w.pt.sha256")) == 1


def test_the_notes_of_a_part_are_json(tmp_path):
    write(Partial(tmp_path / "w.pt", "https://host/w.pt"), 0, b"abc")
    notes = json.loads((tmp_path / ".w.pt.part.json").read_text())
    assert notes == {"source": "https://host/w.pt", "validator": '"v"'}

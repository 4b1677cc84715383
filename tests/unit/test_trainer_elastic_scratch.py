import fcntl
import os
from pathlib import Path

import pytest

from clip_trainer.elastic.scratch import PREFIX, default_parent, remove_left_over, scratch_directory


def left_over(parent: Path, name: str) -> Path:
    """What an agent leaves that was killed."""
    directory = parent / f"{PREFIX}{name}"
    directory.mkdir()
    (directory / "lock").touch()
    (directory / "beacon-0-1").write_bytes(b"x" * 100)
    return directory


def test_directory_is_new_private_and_removed(tmp_path):
    with scratch_directory(tmp_path) as first, scratch_directory(tmp_path) as second:
        assert first != second
        assert first.parent == tmp_path
        assert first.stat().st_mode & 0o777 == 0o700
        (first / "beacon-0-1").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_directory_goes_though_the_agent_fails(tmp_path):
    with pytest.raises(RuntimeError), scratch_directory(tmp_path):
        raise RuntimeError("a bug")
    assert list(tmp_path.iterdir()) == []


def test_next_agent_removes_what_a_killed_one_left(tmp_path):
    old = [left_over(tmp_path, name) for name in ("a", "b")]
    with scratch_directory(tmp_path) as mine:
        assert not any(directory.exists() for directory in old)
        assert mine.exists()


def test_directories_in_use_stay(tmp_path):
    with scratch_directory(tmp_path) as neighbour:
        (neighbour / "progress").write_text("7")
        with scratch_directory(tmp_path):
            assert (neighbour / "progress").read_text() == "7"
        assert (neighbour / "progress").read_text() == "7"


def test_lock_of_another_process_counts(tmp_path):
    directory = left_over(tmp_path, "theirs")
    with (directory / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_left_over(tmp_path)
        assert directory.exists()
    remove_left_over(tmp_path)
    assert not directory.exists()


def test_what_is_not_ours_stays(tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "lock").touch()
    (tmp_path / f"{PREFIX}young").mkdir()  # no lock yet
    remove_left_over(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{PREFIX}young", "others"]


def test_directory_that_was_taken_for_left_over_is_made_again(tmp_path, monkeypatch):
    real, stolen = fcntl.flock, []

    def flock(file, flags):
        if not stolen:
            stolen.append(Path(file.name).parent)
            (stolen[0] / "lock").unlink()
            stolen[0].rmdir()
        real(file, flags)

    monkeypatch.setattr(fcntl, "flock", flock)
    with scratch_directory(tmp_path) as mine:
        assert mine.exists()
        assert mine != stolen[0]


def test_default_is_a_directory_that_can_be_written():
    assert os.access(default_parent(), os.W_OK | os.X_OK)


def test_without_shared_memory_it_is_the_directory_for_such_files(monkeypatch, tmp_path):
    monkeypatch.setattr("clip_trainer.elastic.scratch._SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert default_parent() == tmp_path

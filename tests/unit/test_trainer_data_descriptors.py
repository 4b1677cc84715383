"""Files kept open: few, by thread, and closed at last."""

import os
import threading

import pytest

from clip_trainer.data.storage.descriptors import KEPT, OpenFiles


@pytest.fixture
def files(tmp_path):
    for number in range(KEPT + 2):
        (tmp_path / f"{number}").write_bytes(b"%d" % number)
    return OpenFiles(tmp_path.joinpath)


def content(files, number):
    return os.pread(files.descriptor(str(number)), 9, 0)


def test_a_file_is_opened_once(files):
    first = files.descriptor("1")
    assert files.descriptor("2") != first
    assert files.descriptor("1") == first
    assert content(files, 2) == b"2"


def test_the_one_unused_for_the_longest_is_closed(files, tmp_path):
    kept = files.descriptor("0")
    for number in range(1, KEPT):
        files.descriptor(str(number))
    files.descriptor("0")
    for number in (KEPT, KEPT + 1):
        assert content(files, number) == b"%d" % number
    (tmp_path / "0").unlink()
    (tmp_path / "1").unlink()
    assert files.descriptor("0") == kept
    with pytest.raises(FileNotFoundError):
        files.descriptor("1")


def test_threads_share_nothing_and_close_their_files_when_they_end(files):
    mine = files.descriptor("0")
    theirs = []
    thread = threading.Thread(target=lambda: theirs.append(files.descriptor("0")))
    thread.start()
    thread.join(60)
    assert theirs != [mine]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(theirs[0])
    assert content(files, 0) == b"0"


def test_what_cannot_be_opened_is_not_remembered(files, tmp_path):
    with pytest.raises(FileNotFoundError):
        files.descriptor("later")
    (tmp_path / "later").write_bytes(b"now")
    assert content(files, "later") == b"now"

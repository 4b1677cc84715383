"""The disk cache: verified, within its limit, shared, and never in the way."""

import errno
import fcntl
import logging
import os
import random
import shutil
import subprocess
import sys
import threading

import pytest

from clip_trainer.data.storage import block_file, block_store
from clip_trainer.data.storage.block_store import BlockKey, BlockStore
from clipctl.contract.errors import CannotCreateError

KIB = 1 << 10
ALL = (0, 1 << 30)


def key(number, etag="v1", name="a.tar", base="s3://b/d"):
    return BlockKey(base, name, etag, number)


def files(directory):
    return sorted(path for path in directory.rglob("*.block"))


def used(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path):
    return BlockStore(tmp_path, 100 * KIB)


def test_blocks_come_back(store):
    store.put(key(0), b"block")
    assert store.get(key(0), *ALL) == b"block"
    assert store.get(key(1), *ALL) is None
    store.drop(key(0))
    store.drop(key(0))
    assert store.get(key(0), *ALL) is None


def test_an_empty_block_is_a_block(store):
    store.put(key(0), b"")
    assert store.get(key(0), *ALL) == b""


def test_keys_are_told_apart_by_every_part(store):
    keys = [
        key(1),
        key(11),
        key(1, etag="v11"),
        key(1, name="a.tar1"),
        key(1, base="s3://b/d/"),
        BlockKey("s", "3:x", "", 1),
    ]
    for number, one in enumerate(keys):
        store.put(one, bytes([number]))
    assert [store.get(one, *ALL) for one in keys] == [bytes([number]) for number in range(len(keys))]


def test_blocks_outlive_the_process(store, tmp_path):
    store.put(key(0), b"block")
    assert BlockStore(tmp_path, 100 * KIB).get(key(0), *ALL) == b"block"


@pytest.mark.parametrize("seed", range(20))
def test_what_the_disk_spoils_is_not_given_out(store, tmp_path, seed):
    chance = random.Random(seed)
    store.put(key(0), chance.randbytes(1000))
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    if seed % 2:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        del content[chance.randrange(len(content)) :]
    path.write_bytes(content)
    assert store.get(key(0), *ALL) is None
    assert not files(tmp_path), "it is in nobody's way any more"


def test_the_limit_holds_and_the_least_recently_used_go_first(tmp_path, monkeypatch):
    store = BlockStore(tmp_path, 100 * KIB)
    clock = iter(range(1, 10_000))
    tick = os.utime

    def touched(path):
        moment = next(clock)
        tick(path, (moment, moment))

    monkeypatch.setattr(block_store.os, "utime", touched)
    for number in range(200):
        store.put(key(number), bytes(10 * KIB - 100))
        newest = store.get(key(number), *ALL)
        assert newest is not None
        assert store.get(key(0), *ALL) is not None, "it is used all the time"
        assert used(tmp_path) <= 100 * KIB
    kept = [number for number in range(200) if store.get(key(number), *ALL) is not None]
    assert kept[0] == 0
    assert kept[1:] == list(range(201 - len(kept), 200)), "the youngest"
    assert len(kept) >= 6


def test_what_is_larger_than_the_cache_is_not_kept(store, tmp_path):
    store.put(key(0), bytes(99 * KIB))
    assert not files(tmp_path)


def test_a_smaller_limit_takes_effect_on_what_is_there(tmp_path):
    large = BlockStore(tmp_path, 1000 * KIB)
    for number in range(50):
        large.put(key(number), bytes(10 * KIB))
    assert used(tmp_path) > 400 * KIB
    BlockStore(tmp_path, 100 * KIB).put(key(99), bytes(KIB))
    assert used(tmp_path) <= 100 * KIB


def test_a_full_disk_ends_caching_once_and_aloud(store, monkeypatch, caplog):
    store.put(key(0), b"block")

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(block_file.tempfile, "mkstemp", full)
    with caplog.at_level(logging.WARNING):
        for number in range(1, 5):
            store.put(key(number), b"more")
    assert [record.getMessage() for record in caplog.records] == [
        f"The cache in {store._directory} takes no more blocks: No space left on device."
    ]
    assert store.get(key(0), *ALL) == b"block", "what is there is still used"
    monkeypatch.undo()
    store.put(key(5), b"more")
    assert store.get(key(5), *ALL) is None


def test_a_write_that_fails_half_way_leaves_nothing(store, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(block_file.os, "replace", full)
    store.put(key(0), b"block")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]


def test_a_block_that_somebody_took_for_abandoned_is_no_broken_cache(store, tmp_path, monkeypatch, caplog):
    replace = os.replace

    def late(source, target):
        os.utime(source, (1, 1))
        BlockStore(tmp_path, 100 * KIB)._make_room(0)
        replace(source, target)

    monkeypatch.setattr(block_file.os, "replace", late)
    store.put(key(0), b"block")
    assert store.get(key(0), *ALL) is None
    monkeypatch.undo()
    store.put(key(0), b"block")
    assert store.get(key(0), *ALL) == b"block"
    assert not caplog.records


def test_a_directory_that_is_gone_ends_caching_aloud(tmp_path, caplog):
    store = BlockStore(tmp_path / "cache", 100 * KIB)
    shutil.rmtree(tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            store.put(key(number), b"block")
    assert len(caplog.records) == 1


def test_what_killed_processes_left_behind_is_deleted(tmp_path):
    store = BlockStore(tmp_path, 100 * KIB)
    store.put(key(0), b"block")
    folder = files(tmp_path)[0].parent
    for name, age in ((".old", 10_000), (".young", 0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (os.stat(folder).st_mtime - age,) * 2)
    BlockStore(tmp_path, 100 * KIB).put(key(1), b"block")
    assert not (folder / ".old").exists()
    assert (folder / ".young").exists(), "somebody may still be writing it"


def test_a_block_that_is_being_written_does_not_make_room(tmp_path):
    store = BlockStore(tmp_path, 60 * KIB)
    store.put(key(0), b"block")
    unfinished = files(tmp_path)[0].parent / ".unfinished"
    unfinished.write_bytes(bytes(5 * KIB))
    os.utime(unfinished, (os.stat(unfinished).st_mtime - 60,) * 2)  # older than any block
    for number in range(1, 30):
        store.put(key(number), bytes(5 * KIB))
    assert unfinished.exists()
    assert len(files(tmp_path)) < 12, "blocks made room instead"


def test_while_another_process_makes_room_nobody_waits(store, tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store.put(key(0), b"block")
    assert store.get(key(0), *ALL) == b"block"


def test_a_place_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreateError, match="cannot be used as a cache"):
        BlockStore(tmp_path / "file" / "cache", KIB)


WRITER = """
import sys
from pathlib import Path
from clip_trainer.data.storage.block_store import BlockKey, BlockStore
store = BlockStore(Path(sys.argv[1]), 300 << 10)
for turn in range(30):
    for number in range(20):
        key, block = BlockKey("s", "a", "v", number), bytes([number]) * (5 << 10)
        assert store.get(key, 0, 1 << 30) in (None, block)
        store.put(key, block)
"""


def test_processes_share_a_cache(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    store = BlockStore(tmp_path, 300 * KIB)
    assert [store.get(BlockKey("s", "a", "v", n), *ALL) for n in range(20)] == [bytes([n]) * 5 * KIB for n in range(20)]


def test_a_killed_writer_leaves_a_cache_that_works(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER.replace("range(30)", "iter(int, 1)"), str(tmp_path)])
    while not files(tmp_path):
        assert writer.poll() is None
    writer.kill()
    writer.wait(60)
    store = BlockStore(tmp_path, 300 * KIB)
    for number in range(20):
        assert store.get(BlockKey("s", "a", "v", number), *ALL) in (None, bytes([number]) * 5 * KIB)
        store.put(key(number), b"new")
    assert store.get(key(19), *ALL) == b"new"


def test_threads_share_a_cache(tmp_path):
    store, wrong = BlockStore(tmp_path, 60 * KIB), []

    def work():
        for turn in range(100):
            block = bytes([turn % 10]) * (5 * KIB)
            found = store.get(key(turn % 10), *ALL)
            if found not in (None, block):
                wrong.append(found)
            store.put(key(turn % 10), block)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not store._stopped

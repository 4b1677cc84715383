"""Shares of snapshots as files in memory."""

import errno
import os
from types import SimpleNamespace

import pytest
import torch

from clip_trainer.checkpoint.memory_shares import MemoryShares, ShareId, SnapshotId
from clipctl.contract.errors import InternalError
from clipctl.contract.failpoints import armed

FIRST, SECOND = ShareId.of(1, 10, 2, 0), ShareId.of(1, 20, 2, 0)


def publish(shares, share, byte, size=100):
    shares.stage(share, size).fill_(byte)
    shares.publish(share, {"byte": byte})


def test_a_published_share_outlives_its_process(tmp_path):
    publish(MemoryShares(tmp_path), FIRST, 7)
    shares = MemoryShares(tmp_path)
    assert shares.published() == [FIRST]
    assert shares.describe(FIRST) == {"byte": 7}
    assert torch.equal(shares.bytes_of(FIRST), torch.full((100,), 7, dtype=torch.uint8))


def test_a_share_without_bytes(tmp_path):
    shares = MemoryShares(tmp_path)
    publish(shares, FIRST, 7, size=0)
    assert shares.bytes_of(FIRST).numel() == 0


def test_half_of_one_is_none(tmp_path):
    shares = MemoryShares(tmp_path)
    with armed("memory.publishing=error:internal"), pytest.raises(InternalError):
        publish(shares, FIRST, 7)
    shares.stage(SECOND, 5)
    assert shares.published() == []
    assert MemoryShares(tmp_path).published() == []


def test_newer_incarnations_come_last_then_later_steps(tmp_path):
    shares = MemoryShares(tmp_path)
    later = ShareId.of(2, 5, 2, 0)
    for share in (later, SECOND, FIRST):
        publish(shares, share, 1)
    assert shares.published() == [FIRST, SECOND, later]


def test_all_but_one_are_retired_and_their_memory_used_again(tmp_path):
    shares = MemoryShares(tmp_path)
    publish(shares, FIRST, 1)
    before = {path.stat().st_ino for path in tmp_path.glob("*.bytes")}
    publish(shares, SECOND, 2)
    shares.retire(SECOND.snapshot, [100])
    assert shares.published() == [SECOND]
    third = ShareId.of(1, 30, 2, 0)
    publish(shares, third, 3)
    assert before == {(tmp_path / f"{third.name}.bytes").stat().st_ino}
    assert shares.bytes_of(SECOND)[0] == 2
    assert shares.bytes_of(third)[0] == 3


def test_memory_of_another_size_is_given_back(tmp_path):
    shares = MemoryShares(tmp_path)
    publish(shares, FIRST, 1)
    shares.retire(None, [101])
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_had_begun_is_given_back(tmp_path):
    shares = MemoryShares(tmp_path)
    publish(shares, FIRST, 1)
    shares.stage(SECOND, 100)
    shares.retire(None, [100])
    assert list(MemoryShares(tmp_path)._folder.iterdir()) == []


def test_room_counts_what_shares_take_already(tmp_path, monkeypatch):
    def statvfs(folder):
        """Of a file system that nobody else writes to."""
        taken = sum(file.stat().st_size for file in folder.iterdir())
        return SimpleNamespace(f_bavail=1000 - (taken >> 12), f_frsize=1 << 12)

    monkeypatch.setattr(os, "statvfs", statvfs)
    shares = MemoryShares(tmp_path)
    publish(shares, FIRST, 1, size=1 << 20)
    description = shares._description(FIRST).stat().st_size
    assert shares.room == (1000 << 12) + description


def test_a_lack_of_room_is_an_error_and_no_crash(tmp_path):
    shares = MemoryShares(tmp_path)
    with pytest.raises(OSError, match=r".") as raised:
        shares.stage(FIRST, 1 << 50)
    assert raised.value.errno in {errno.ENOSPC, errno.EFBIG}


def test_snapshots_are_ordered_by_incarnation():
    assert SnapshotId(2, 1, 4) > SnapshotId(1, 9, 4)

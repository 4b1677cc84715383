"""Shares of snapshots in a node's memory: files in /dev/shm, which outlive the process but not the node.

A share is two files: the bytes, laid out as in a checkpoint (see `objects`), and a description in JSON, which appears
last and makes the share real. The files lie in the launcher's scratch directory, so they are gone with it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipctl.contract.failpoints import failpoint

_SHARE = re.compile(r"([0-9]+)-([0-9]+)-([0-9]+)-([0-9]+)\.json")
_STAGED = ".staged"
_RETIRED = "retired-"


@dataclass(frozen=True, order=True)
class SnapshotId:
    """A snapshot: the incarnation that made it, the step after which it did, and how many ranks have a share."""

    incarnation: int
    step: int
    world: int


@dataclass(frozen=True, order=True)
class ShareId:
    """The share of one rank."""

    snapshot: SnapshotId
    rank: int

    @property
    def name(self) -> str:
        """Of its files, without suffix."""
        return f"{self.snapshot.incarnation}-{self.snapshot.step}-{self.snapshot.world}-{self.rank}"

    @classmethod
    def of(cls, incarnation: int, step: int, world: int, rank: int) -> ShareId:
        """From plain numbers."""
        return cls(SnapshotId(incarnation, step, world), rank)


class MemoryShares:
    """The shares that one worker has, and its predecessors in its slot had.

    Args:
        folder: where; it is made if it is not there. Nobody else writes there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.drop_unfinished()

    @property
    def room(self) -> int:
        """Bytes that shares may take: what they take already, and what is free."""
        there = sum(file.stat().st_size for file in self._folder.iterdir())
        system = os.statvfs(self._folder)
        return there + system.f_bavail * system.f_frsize

    def published(self) -> list[ShareId]:
        """All whole shares, oldest first."""
        matches = (_SHARE.fullmatch(file.name) for file in self._folder.iterdir())
        return sorted(ShareId.of(*map(int, match.groups())) for match in matches if match)

    def stage(self, share: ShareId, size: int) -> torch.Tensor:
        """Room for the bytes of a share [size], in shared memory; what is in it is arbitrary.

        Memory that `retire` gave up is used again, because fresh pages cost more than a copy into them.

        Raises:
            OSError: there is no room.
        """
        path = self._bytes(share, staged=True)
        retired = next((file for file in self._folder.glob(f"{_RETIRED}*") if file.stat().st_size == size), None)
        if retired is not None:
            retired.rename(path)
        with path.open("ab") as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)  # a hole that cannot be filled would end in SIGBUS
        return self._mapped(path, size)

    def publish(self, share: ShareId, description: Mapping[str, Any]) -> None:
        """Make a staged share real."""
        self._bytes(share, staged=True).rename(self._bytes(share))
        failpoint("memory.publishing")
        path = self._description(share)
        staged = path.with_name(path.name + _STAGED)
        staged.write_text(json.dumps(description))
        staged.rename(path)

    def describe(self, share: ShareId) -> dict[str, Any]:
        """What `publish` was told."""
        return dict(json.loads(self._description(share).read_text()))

    def bytes_of(self, share: ShareId) -> torch.Tensor:
        """The bytes of a published share, mapped; not to be written to."""
        path = self._bytes(share)
        return self._mapped(path, path.stat().st_size)

    def retire(self, keep: SnapshotId | None, sizes: Collection[int]) -> None:
        """Give up all snapshots but one. Memory of one of these sizes serves the next one, the rest is given back."""
        for share in self.published():
            if share.snapshot != keep:
                self._description(share).unlink()
                path = self._bytes(share)
                if path.stat().st_size in sizes:
                    path.rename(self._folder / f"{_RETIRED}{share.name}")
                else:
                    path.unlink()

    def drop_unfinished(self) -> None:
        """Give back the memory of what was staged or retired."""
        for left_over in (*self._folder.glob(f"*{_STAGED}"), *self._folder.glob(f"{_RETIRED}*")):
            left_over.unlink()

    def _bytes(self, share: ShareId, *, staged: bool = False) -> Path:
        return self._folder / f"{share.name}.bytes{_STAGED if staged else ''}"

    def _description(self, share: ShareId) -> Path:
        return self._folder / f"{share.name}.json"

    @staticmethod
    def _mapped(path: Path, size: int) -> torch.Tensor:
        if not size:
            return torch.empty(0, dtype=torch.uint8)
        return torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)

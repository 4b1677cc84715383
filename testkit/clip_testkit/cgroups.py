"""Limits of memory and processor time for processes of a test, and freezing them: control groups, version 1 or 2.

Needs root and a writable /sys/fs/cgroup. A child enters its group before it runs anything: `Cgroup.command`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds; the kernel's default


class Cgroup:
    """One group; use it with `cgroup`.

    Args:
        root: where the hierarchies are mounted.
        name: of the group.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.unified = (root / "cgroup.controllers").exists()
        controllers = [""] if self.unified else ["memory", "cpu", "freezer"]
        self._folders = {controller: root / controller / name for controller in controllers}
        if self.unified:
            with contextlib.suppress(OSError):  # already on, or not offered: then the limit itself fails
                (root / "cgroup.subtree_control").write_text("+memory +cpu")
        for folder in self._folders.values():
            folder.mkdir()

    def limit_memory(self, size: int) -> None:
        """The group may use `size` bytes; beyond that the kernel kills one of its processes."""
        if self.unified:
            self._write("memory", "memory.max", size)
            with contextlib.suppress(OSError):  # kernels without swap accounting
                self._write("memory", "memory.swap.max", 0)
        else:
            self._write("memory", "memory.limit_in_bytes", size)

    def limit_processor(self, cores: float) -> None:
        """The group gets at most so many cores; less than 1 makes a straggler."""
        quota = int(cores * PERIOD)
        if self.unified:
            self._write("cpu", "cpu.max", f"{quota} {PERIOD}")
        else:
            self._write("cpu", "cpu.cfs_period_us", PERIOD)
            self._write("cpu", "cpu.cfs_quota_us", quota)

    def freeze(self, frozen: bool = True) -> None:
        """Stop all processes of the group, which cannot notice it; or let them go on."""
        if self.unified:
            self._write("freezer", "cgroup.freeze", int(frozen))
        else:
            self._write("freezer", "freezer.state", "FROZEN" if frozen else "THAWED")

    def add(self, pid: int) -> None:
        """Move a process into the group; its later children are born there."""
        for controller in self._folders:
            self._write(controller, "cgroup.procs", pid)

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv`, run within the group from its first instruction on."""
        enter = "".join(f'echo $$ >"{folder}/cgroup.procs" && ' for folder in self._folders.values())
        return ["/bin/sh", "-c", f'{enter}exec "$@"', "sh", *argv]

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        folder = next(iter(self._folders.values()))
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]

    def remove(self) -> None:
        """Kill what is left in it, and remove it."""
        with contextlib.suppress(OSError):
            self.freeze(False)
        deadline = time.monotonic() + 30
        while self.pids and time.monotonic() < deadline:
            for pid in self.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for folder in self._folders.values():
            folder.rmdir()

    def _write(self, controller: str, file: str, value: object) -> None:
        folder = self._folders["" if self.unified else controller]
        (folder / file).write_text(str(value))


@contextlib.contextmanager
def cgroup(root: Path = ROOT) -> Iterator[Cgroup]:
    """A new group, gone at the end with all its processes."""
    group = Cgroup(root, f"clip-testkit-{uuid.uuid4().hex[:12]}")
    try:
        yield group
    finally:
        group.remove()

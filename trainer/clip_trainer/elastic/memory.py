"""Was it the kernel's out-of-memory killer? A SIGKILL alone does not tell; the cgroup's counter does."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def oom_kills(proc_cgroup: Path = Path("/proc/self/cgroup"), root: Path = _ROOT) -> int:
    """How many processes of our control group the kernel has killed for memory so far; 0 if that is not known.

    Reads `memory.events` (cgroup v2) or `memory.oom_control` (v1). A container that sees its own group as `/` and a
    process on the host are both served.
    """
    for file in _candidates(proc_cgroup, root):
        try:
            text = file.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill" and value.isdigit():
                return int(value)
    return 0


def _candidates(proc_cgroup: Path, root: Path) -> list[Path]:
    files: list[Path] = []
    try:
        lines = proc_cgroup.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files.append(root / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            files.append(root / "memory" / path.lstrip("/") / "memory.oom_control")
    return [*files, root / "memory.events", root / "memory" / "memory.oom_control"]

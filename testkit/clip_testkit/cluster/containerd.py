"""containerd's images, containers and leftovers, through `ctr`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from clip_testkit.cluster import settings as pinned
from clip_testkit.cluster.binaries import operator_image
from clip_testkit.cluster.netns import inside
from clip_testkit.cluster.node import PAUSE_IMAGE
from clip_testkit.cluster.scratchimage import compile_pause, write_image
from clip_testkit.cluster.settings import Settings
from clip_testkit.cluster.shell import Argument, run, say, succeeds, tail
from clipctl.contract.errors import UnavailableError

COREDNS_IMAGE = f"localhost/clipctl/coredns:{pinned.COREDNS}"


def ctr(settings: Settings, *words: Argument, timeout: float = 600) -> str:
    """Run `ctr` in Kubernetes' containerd namespace."""
    address = settings.containerd_socket
    return run(inside(["ctr", "-a", address, "-n", "k8s.io", *words]), timeout=timeout)


def serves(settings: Settings) -> bool:
    """Whether containerd answers."""
    return succeeds(inside(["ctr", "-a", settings.containerd_socket, "version"]), timeout=5)


def images(settings: Settings) -> set[str]:
    """Names of the images in the store."""
    return set(ctr(settings, "images", "ls", "-q").split())


def blobs(settings: Settings) -> set[str]:
    """Digests of the content in the store."""
    return set(ctr(settings, "content", "ls", "-q").split())


def import_archive(settings: Settings, archive: Path) -> None:
    """Import and unpack an OCI archive."""
    ctr(settings, "images", "import", archive)


@contextlib.contextmanager
def importing(settings: Settings) -> Iterator[IO[bytes]]:
    """A stream into which an archive is written to be imported, without a copy of it on disk.

    Raises:
        UnavailableError: containerd refused it.
    """
    argv = inside(["ctr", "-a", settings.containerd_socket, "-n", "k8s.io", "images", "import", "-"])
    words = [str(word) for word in argv]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        # A refusal closes the pipe; its reason is on stderr.
        with contextlib.suppress(BrokenPipeError):
            yield process.stdin
            process.stdin.close()
        reason = process.stderr.read().decode(errors="replace")
    if process.returncode != 0:
        raise UnavailableError(f"containerd refused the image: {tail(reason)}")


def ensure_system_images(settings: Settings) -> None:
    """Import the sandbox, CoreDNS and training-operator images where the store lacks them."""
    operator = settings.binary("training-operator.v1", pinned.TRAINING_OPERATOR)
    wanted = {
        PAUSE_IMAGE: (None, "/pause"),
        COREDNS_IMAGE: (settings.binary("coredns", pinned.COREDNS), "/coredns"),
        operator_image(): (operator, "/manager"),
    }
    present = images(settings)
    for name, (binary, entrypoint) in wanted.items():
        if name not in present:
            say(f"importing {name}")
            _import_binary(settings, name, binary, entrypoint)


def _import_binary(settings: Settings, name: str, binary: Path | None, entrypoint: str) -> None:
    with tempfile.TemporaryDirectory(prefix="clipctl-image-") as work:
        if binary is None:
            binary = Path(work, "pause")
            compile_pause(binary)
        archive = Path(work, "image.tar")
        write_image(archive, name, binary, entrypoint)
        import_archive(settings, archive)


def discard_containers(settings: Settings) -> int:
    """Remove the records of all containers (their processes must be gone); return how many there were."""
    names = ctr(settings, "containers", "ls", "-q").split()
    if names:
        ctr(settings, "containers", "rm", *names)
    return len(names)


def shims(settings: Settings, proc: Path = Path("/proc")) -> list[int]:
    """Process ids of the shims that serve our containerd, found by its address on their command line."""
    address = str(settings.containerd_socket).encode()
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"containerd-shim-runc-v2") and address in words:
                found.append(int(entry.name))
    return found


def children(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Process ids of a process's children, of all its threads."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in (proc / str(pid) / "task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def kill_pods(settings: Settings) -> None:
    """Kill every container and its shim; works whether or not containerd itself still runs.

    A container's first process is a child of its shim; killing it ends the whole process namespace.
    """
    for shim in shims(settings):
        for pid in [*children(shim), shim]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

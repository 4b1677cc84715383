"""OCI images that hold one static binary and nothing else, written without any image tool.

Format: https://github.com/opencontainers/image-spec (image layout, manifest and configuration, v1). The result depends
on the bytes of the binary only: no times, no host names.
"""

from __future__ import annotations

import io
import json
import platform
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any

from clip_testkit.cluster import ociarchive

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}

PAUSE_SOURCE = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void leave(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) {
  signal(SIGINT, leave); signal(SIGTERM, leave); signal(SIGCHLD, reap);
  for (;;) pause();
}
"""
"""Holds a pod's namespaces open and collects orphans, as Kubernetes asks of a sandbox image."""


def compile_pause(out: Path) -> None:
    """Compile the sandbox program, static.

    Raises:
        subprocess.CalledProcessError: gcc failed.
    """
    with tempfile.TemporaryDirectory() as work:
        source = Path(work, "pause.c")
        source.write_text(PAUSE_SOURCE)
        subprocess.run(["gcc", "-Os", "-static", "-o", str(out), str(source)], check=True, timeout=120)


def write_image(out: Path, name: str, binary: Path, entrypoint: str) -> None:
    """Write an OCI archive whose only file is `binary` at `entrypoint`.

    Args:
        out: path of the tar file.
        name: full image name with tag.
        binary: static executable.
        entrypoint: absolute path inside the image.
    """
    layer = _layer(binary.read_bytes(), entrypoint)
    config = _json(
        {
            "architecture": MACHINES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": [entrypoint]},
            "rootfs": {"type": "layers", "diff_ids": [ociarchive.digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": ociarchive.MANIFEST,
            "config": ociarchive.descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [ociarchive.descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    with out.open("wb") as archive:
        ociarchive.write_archive(archive, name, manifest, config, (), lambda _, stream: _write(stream, layer))


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _write(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)


def _layer(data: bytes, path: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        ociarchive.add(archive, path.lstrip("/"), data, mode=0o755)
    return buffer.getvalue()

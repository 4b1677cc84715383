"""OCI images that hold one static binary and nothing else, written without any image tool.

Format: https://github.com/opencontainers/image-spec (image layout, manifest and configuration, v1). The result depends
on the bytes of the binary only: no times, no host names.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

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
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    with tarfile.open(out, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": [entry]}))
        for blob in (manifest, config, layer):
            _add(archive, f"blobs/sha256/{digest(blob).removeprefix('sha256:')}", blob)


def digest(data: bytes) -> str:
    """Content address of some bytes, e.g. `sha256:ab12...`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _layer(data: bytes, path: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, path.lstrip("/"), data, mode=0o755)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, path: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))

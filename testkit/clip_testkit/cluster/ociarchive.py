"""From an OCI layout on disk to an archive that holds only what containerd lacks.

buildah writes images to a layout directory, where unchanged layers are not written again. containerd imports archives,
and content that it already has may be missing in them. So after a change of code only a thin layer travels.
Format: https://github.com/opencontainers/image-spec (image layout v1).
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import IO, Any


def blob_path(layout: Path, digest: str) -> Path:
    """Path of a blob in a layout."""
    return layout / "blobs" / Path(*digest.split(":", 1))


def manifest_descriptor(layout: Path, tag: str) -> dict[str, Any]:
    """The index entry of a tag.

    Raises:
        ValueError: the layout has no such tag.
    """
    index = json.loads((layout / "index.json").read_text())
    for entry in index["manifests"]:
        if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag:
            return dict(entry)
    raise ValueError(f"{layout} has no image tagged {tag!r}")


def digests(layout: Path, descriptor: dict[str, Any]) -> list[str]:
    """Digests of an image's blobs: manifest, configuration, layers."""
    manifest = json.loads(blob_path(layout, descriptor["digest"]).read_text())
    return [descriptor["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]


def write_archive(layout: Path, descriptor: dict[str, Any], name: str, present: set[str], out: IO[bytes]) -> int:
    """Write an archive of one image without the blobs already present, and return its payload in bytes.

    Manifest and configuration are always written: the importer starts from them.
    """
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    index = {"schemaVersion": 2, "manifests": [{**descriptor, "annotations": annotations}]}
    manifest, config, *layers = digests(layout, descriptor)
    wanted = [manifest, config, *(layer for layer in dict.fromkeys(layers) if layer not in present)]
    with tarfile.open(fileobj=out, mode="w|") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(archive, "index.json", json.dumps(index).encode())
        for digest in wanted:
            archive.add(blob_path(layout, digest), arcname=f"blobs/{digest.replace(':', '/')}")
    return sum(blob_path(layout, digest).stat().st_size for digest in wanted)


def prune(layout: Path, keep: list[str]) -> None:
    """Delete the blobs of earlier images."""
    names = {digest.split(":", 1)[1] for digest in keep}
    for path in (layout / "blobs" / "sha256").iterdir():
        if path.name not in names:
            path.unlink()


def _add(archive: tarfile.TarFile, path: str, data: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))

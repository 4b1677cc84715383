"""OCI archives that hold only what the importer lacks.

containerd imports archives in which content that it already has is missing: after a change of code only a thin layer
travels. Format: https://github.com/opencontainers/image-spec (image layout v1).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Collection
from typing import IO, Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_AT_ONCE = 1 << 16
BLOCK = tarfile.BLOCKSIZE


def digest(data: bytes) -> str:
    """Content address of some bytes, e.g. `sha256:ab12...`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    """How OCI documents refer to a blob."""
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def absent_layers(manifest: bytes, present: Collection[str]) -> list[dict[str, Any]]:
    """Descriptors of a manifest's layers that the importer lacks, each once."""
    layers = {layer["digest"]: layer for layer in json.loads(manifest)["layers"]}
    return [layer for name, layer in layers.items() if name not in present]


def write_archive(
    out: IO[bytes],
    name: str,
    manifest: bytes,
    config: bytes,
    present: Collection[str],
    copy_layer: Callable[[str, IO[bytes]], None],
) -> int:
    """Write an archive of one image and return its payload in bytes.

    Manifest and configuration are always written: the importer starts from them.

    Args:
        out: where to; need not be seekable.
        name: full image name with tag.
        manifest: JSON text.
        config: JSON text.
        present: digests of the blobs to leave out.
        copy_layer: writes the layer with a digest; called in the manifest's order.

    Raises:
        ValueError: a layer is not as long as the manifest says.
    """
    entry = descriptor(MANIFEST, manifest)
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    layers = absent_layers(manifest, present)
    with tarfile.open(fileobj=out, mode="w|") as archive:
        add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        for data in (manifest, config):
            add(archive, blob_name(digest(data)), data)
        for layer in layers:
            _add_stream(archive, layer, copy_layer)
    return len(manifest) + len(config) + sum(int(layer["size"]) for layer in layers)


def blob_name(blob_digest: str) -> str:
    """Path of a blob inside an archive."""
    return f"blobs/{blob_digest.replace(':', '/')}"


def add(archive: tarfile.TarFile, path: str, data: bytes, mode: int = 0o644) -> None:
    """Add a file with no time and no owner."""
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))


class _Counter:
    """Passes bytes on and counts them, a little at a time: tarfile's stream copies all that is left for every block."""

    def __init__(self, out: Any) -> None:
        self.out, self.count = out, 0

    def write(self, data: bytes) -> int:
        self.count += len(data)
        for at in range(0, len(data), _AT_ONCE):
            self.out.write(data[at : at + _AT_ONCE])
        return len(data)


def _add_stream(archive: tarfile.TarFile, layer: dict[str, Any], copy_layer: Callable[[str, IO[bytes]], None]) -> None:
    """Add a member whose bytes come from a writer: tarfile itself only takes readers."""
    info = tarfile.TarInfo(blob_name(layer["digest"]))
    info.size = layer["size"]
    archive.addfile(info)
    counter: Any = _Counter(archive.fileobj)
    copy_layer(layer["digest"], counter)
    if counter.count != info.size:
        raise ValueError(f"layer {layer['digest']} has {counter.count} bytes; the manifest says {info.size}")
    counter.out.write(b"\0" * (-info.size % BLOCK))

"""Checkpoints of a made-up run, written through any store without torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from clipctl.contract import layout
from clipctl.contract.commit_record import CommitRecord
from clipctl.contract.digest import chunk_digests, sha256_hex
from clipctl.contract.layout import CheckpointId
from clipctl.contract.manifest import Manifest, StoredObject
from clipctl.contract.store import ObjectStore
from clipctl.contract.tensor_entry import TensorEntry

Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]
"""By name: dtype as safetensors names it, shape, bytes."""

STATE = {"train": {"step": 7, "samples_consumed": 448, "skipped": 0}, "open_clip_config": {"model_cfg": {}}}
WEIGHTS: Tensors = {
    "visual.w": ("F32", (2, 3), struct.pack("<6f", *range(6))),
    "text.b": ("F16", (3,), struct.pack("<3e", 0.5, -1.0, 2.0)),
    "count": ("I64", (), struct.pack("<q", 7)),
}
MOMENTS: Tensors = {"exp_avg.visual.w": ("F32", (2, 3), struct.pack("<6f", *range(6, 0, -1)))}


def safetensors(tensors: Tensors) -> tuple[bytes, dict[str, TensorEntry]]:
    """One file, and where everything lies in it (https://github.com/huggingface/safetensors#format)."""
    header: dict[str, Any] = {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    entries = {
        name: TensorEntry(
            dtype, shape, first + header[name]["data_offsets"][0], first + header[name]["data_offsets"][1]
        )
        for name, (dtype, shape, _) in tensors.items()
    }
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()), entries


def save(
    store: ObjectStore,
    step: int,
    incarnation: int = 1,
    parts: Mapping[str, Tensors] | None = None,
    *,
    state: dict[str, Any] | None = None,
    chunk_bytes: int = 64,
    **record: Any,
) -> CheckpointId:
    """Write and commit a checkpoint of one rank, with small chunks; `record` are fields of the commit record."""
    checkpoint = CheckpointId(step, incarnation)
    prefix = layout.checkpoint_prefix(checkpoint)
    objects = []
    for part, tensors in ({"weights": WEIGHTS, "optimizer": MOMENTS} if parts is None else parts).items():
        name = f"{part}-00000-of-00001.safetensors"
        data, entries = safetensors(tensors)
        store.write(prefix + name, data)
        objects.append(StoredObject(name, len(data), tuple(chunk_digests(data, chunk_bytes)), chunk_bytes, entries))
    manifest = Manifest(tuple(objects), STATE if state is None else state).to_bytes()
    store.write(layout.manifest_key(checkpoint), manifest)
    fields = {
        "run": "demo", "attempt": 1, "samples_consumed": step * 64, "world_size": 1, "spec_digest": "a" * 64,
        "training_digest": "b" * 64, "parent": None, "created_at": 1_700_000_000.0 + step, "writer": "host:1",
        "metrics": {"loss": 1.0 / (1 + step)},
    }  # fmt: skip
    commit = CommitRecord(
        step=step,
        incarnation=incarnation,
        manifest_sha256=sha256_hex(manifest),
        bytes_total=sum(stored.size for stored in objects),
        **{**fields, **record},
    )
    assert store.create(layout.commit_key(checkpoint), commit.to_bytes())
    return checkpoint


def damage(store: ObjectStore, key: str) -> None:
    """Flip a bit in the middle of an object."""
    data = bytearray(store.read(key))
    data[len(data) // 2] ^= 1
    store.write(key, bytes(data))

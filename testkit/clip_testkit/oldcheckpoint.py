"""A checkpoint of format version 1, as release 0.1.0 wrote it: made by hand, so that the product cannot change it.

Nothing of this may follow a change of the format: it stands for what lies in users' buckets.
"""

from __future__ import annotations

import hashlib
import json
import struct

import xxhash

RUN_STEP, INCARNATION = 12, 3
CHUNK = 32
WEIGHTS = {"a.weight": (0.5, -1.5, 2.5, 3.5), "b.bias": (9.0,)}
STATE = {"train": {"step": 12, "samples_consumed": 768}, "open_clip_config": {"model_cfg": {"embed_dim": 4}}}
PREFIX = "checkpoints/step-00000012/inc-000003/"
OBJECT = f"{PREFIX}weights-00000-of-00001.safetensors"
MANIFEST = f"{PREFIX}manifest.json"
COMMIT = "commits/step-00000012.inc-000003.json"


def version_1() -> dict[str, bytes]:
    """All objects of the run by key."""
    weights = _weights()
    manifest = _compact(
        {
            "objects": [
                {
                    "chunk_bytes": CHUNK,
                    "name": "weights-00000-of-00001.safetensors",
                    "size": len(weights),
                    "xxh3": [
                        xxhash.xxh3_128(weights[at : at + CHUNK]).hexdigest() for at in range(0, len(weights), CHUNK)
                    ],
                }
            ],
            "state": STATE,
            "version": 1,
        }
    )
    record = {
        "attempt": 1,
        "bytes_total": len(weights),
        "created_at": 1700000000.25,
        "incarnation": INCARNATION,
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "metrics": {"loss": 1.25},
        "parent": None,
        "run": "old",
        "samples_consumed": 768,
        "spec_digest": "a" * 64,
        "step": RUN_STEP,
        "training_digest": "b" * 64,
        "version": 1,
        "world_size": 1,
        "writer": "host:1",
    }
    signed = _compact({**record, "digest": hashlib.sha256(_compact(record)).hexdigest()})
    return {OBJECT: weights, MANIFEST: manifest, COMMIT: signed, "LATEST": b"step-00000012.inc-000003\n"}


def _weights() -> bytes:
    header, body = {}, b""
    for name, values in WEIGHTS.items():
        data = struct.pack(f"<{len(values)}f", *values)
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F32", "shape": [len(values)], "data_offsets": offsets}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _compact(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

"""What `clipctl checkpoints inspect` tells about a checkpoint, from its commit record and manifest alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from clipctl.contract.commits import latest_target, read_commit, read_manifest
from clipctl.contract.layout import CheckpointId
from clipctl.contract.manifest import Manifest, Piece
from clipctl.contract.safetensors_header import described
from clipctl.contract.store import ObjectStore
from clipctl.output import age, size

_RECORD = ("run", "step", "incarnation", "attempt", "samples_consumed", "world_size", "created_at", "writer", "parent")
_DIGESTS = ("spec_digest", "training_digest", "manifest_sha256")


def describe(store: ObjectStore, checkpoint: CheckpointId) -> dict[str, Any]:
    """A JSON value with what is known about a checkpoint.

    Raises:
        MissingError: it is not committed.
        CorruptError: its commit record or manifest is damaged.
    """
    commit = read_commit(store, checkpoint)
    written = read_manifest(store, commit)
    manifest = described(store, checkpoint, written)
    return {
        "id": str(checkpoint),
        **{name: getattr(commit, name) for name in (*_RECORD, *_DIGESTS)},
        "bytes_total": commit.bytes_total,
        "metrics": commit.metrics,
        "format_version": written.version,
        "is_latest": latest_target(store) == checkpoint,
        "parts": {part: _part(manifest, part) for part in dict.fromkeys(s.part for s in manifest.objects)},
        "state": summary(manifest.state),
    }


def summary(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without what is long: plain values, and those one level below; lists as their lengths."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            inner = {key: entry for key, entry in value.items() if _is_plain(entry)}
            lengths = {key: f"{len(entry)} values" for key, entry in value.items() if isinstance(entry, list)}
            if inner or lengths:
                found[name] = inner | lengths
        elif _is_plain(value):
            found[name] = value
    return found


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same as text for people."""
    head = {
        "Checkpoint": found["id"] + (" (LATEST)" if found["is_latest"] else ""),
        "Run": f"{found['run']}, attempt {found['attempt']}, {found['world_size']} ranks",
        "Samples": found["samples_consumed"],
        "Saved": f"{age(found['created_at'])} ago by {found['writer']}",
        "Parent": found["parent"] or "none",
        "Format": f"version {found['format_version']}",
        "Metrics": ", ".join(f"{name} {value:.6g}" for name, value in found["metrics"].items()) or "none",
        "Training": found["training_digest"],
        "run.yaml": found["spec_digest"],
    }
    yield from (f"{name + ':':<12} {value}" for name, value in head.items())
    yield f"{'Parts:':<12} {size(found['bytes_total'])} in all"
    for name, part in found["parts"].items():
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in part["dtypes"].items())
        sharded = f", {part['sharded']} in pieces" if part["sharded"] else ""
        yield f"  {name:<10} {part['tensors']} tensors ({dtypes}{sharded}), {part['elements']} elements, " + (
            f"{size(part['bytes'])} in {part['objects']} objects"
        )
    yield "State:"
    for name, value in found["state"].items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        yield f"  {name:<10} {shown}"


def _part(manifest: Manifest, part: str) -> dict[str, Any]:
    objects = manifest.objects_of(part)
    tensors: dict[str, tuple[Piece, ...]] = manifest.locate(part)
    firsts = [pieces[0].entry for pieces in tensors.values()]
    return {
        "objects": len(objects),
        "bytes": sum(stored.size for stored in objects),
        "tensors": len(tensors),
        "elements": sum(prod(entry.whole_shape) for entry in firsts),
        "dtypes": dict(sorted(Counter(entry.dtype for entry in firsts).items())),
        "sharded": sum(1 for pieces in tensors.values() if pieces[0].entry.global_shape is not None),
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) or value is None

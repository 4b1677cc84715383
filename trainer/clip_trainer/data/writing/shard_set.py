"""From samples to a finished dataset: shards, index and record, taken up again where it was interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clip_trainer.data.index.dataset import build_index
from clip_trainer.data.index.store import save_index
from clip_trainer.data.progress import Progress
from clip_trainer.data.storage.location import Location, parse_location
from clip_trainer.data.storage.source import Source, open_source
from clip_trainer.data.writing.shard_producer import Producer
from clip_trainer.data.writing.shard_record import RECORD_NAME, ShardRecord, find_record
from clip_trainer.data.writing.shard_writer import WriteOptions, write_shards
from clipctl.contract.errors import MissingError, SpecError


@dataclass(frozen=True)
class WriteSummary:
    """What was written."""

    out: str
    shards: int
    samples: int
    bytes: int
    identity: str  # digest of the content: equal for copies, wherever they are
    skipped: Mapping[str, int]  # samples that were left out, by reason
    resumed: int  # samples of the input that an earlier call had dealt with
    complete: bool  # there was nothing left to do


def write_set(
    producer: Producer,
    out: str,
    options: WriteOptions,
    *,
    beside: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> WriteSummary:
    """Write shards `shard-000000.tar` ..., what belongs beside them, and their index.

    Args:
        producer: makes the samples.
        out: directory or URL.
        options: how to cut and by how many threads.
        beside: small objects to save with the shards, by name.
        progress: told how many samples are dealt with.

    Raises:
        SpecError: `out` is not a directory location.
        MissingError: no samples, or all were left out.
        CannotCreateError: `out` holds other shards, or cannot be written.
    """
    location = parse_location(out)
    if location.names is not None:
        raise SpecError(f"Cannot write shards into {out}.", hint="Give a directory.")
    if not len(producer):
        raise MissingError("There is nothing to pack.")
    _sweep(location)
    sink = open_source(location)
    decisive = {
        **producer.options,
        "samples_per_shard": options.samples_per_shard,
        "shard_bytes": options.shard_bytes,
    }
    found = find_record(sink, decisive)
    record = found if found.finished else _written(producer, sink, found, options, beside or {}, progress)
    return WriteSummary(
        out=out,
        shards=record.shards,
        samples=record.samples,
        bytes=record.bytes,
        identity=record.identity or "",
        skipped=record.skipped,
        resumed=found.position,
        complete=found.finished,
    )


def _sweep(location: Location) -> None:
    """Remove the temporary files that a killed process left in a directory; stores keep no halves of objects."""
    if location.scheme == "":
        for pattern in (".shard-*.*", ".index*.*", ".classes.json.*", f".{RECORD_NAME}.*"):
            for path in Path(location.base).glob(pattern):
                path.unlink(missing_ok=True)


def _written(
    producer: Producer,
    sink: Source,
    found: ShardRecord,
    options: WriteOptions,
    beside: Mapping[str, bytes],
    progress: Progress | None,
) -> ShardRecord:
    record = write_shards(producer, sink, found, options, progress)
    if not record.samples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in record.skipped.items())
        raise MissingError(f"There is nothing to pack: every sample was left out ({reasons}).")
    for name, payload in beside.items():
        sink.save(name, payload)
    index = build_index(sink, record.shard_names(), progress=progress)
    save_index(sink, index)
    record = replace(record, identity=index.identity)
    record.save(sink)
    return record

"""How far a writing of shards is: a small object beside them, by which an interrupted one goes on.

`pack.json` says what decides the bytes of the shards (a digest of the input, and every option that matters) and how
many shards are whole. It is saved after each shard. Who finds it knows that shards 0 ... `shards - 1` are there in
full, and with which sample the next one starts; whatever else lies there is written again, to the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import xxhash

from clip_trainer.data.storage.source import Source
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError

RECORD_NAME = "pack.json"

FORMAT = "clipctl-pack"
VERSION = 1

_START_AGAIN = "Delete what is there, or choose another output."


@dataclass(frozen=True)
class ShardRecord:
    """What has been written, and from what."""

    options: Mapping[str, Any]  # what decides the bytes, JSON values by name
    shards: int = 0  # whole ones
    position: int = 0  # of the first input sample that is in none of them
    samples: int = 0
    bytes: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)  # samples by reason
    identity: str | None = None  # of the dataset; set once everything is there, the index too

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.identity is not None

    def shard_names(self) -> list[str]:
        """Names of the shards that are whole."""
        return [shard_name(number) for number in range(self.shards)]

    def after_shard(self, position: int, samples: int, size: int, skipped: Counter[str]) -> ShardRecord:
        """The record once the next shard is there as well; a shard of no samples counts as none."""
        counts = Counter(self.skipped) + skipped
        return replace(
            self,
            shards=self.shards + (samples > 0),
            position=position,
            samples=self.samples + samples,
            bytes=self.bytes + size,
            skipped=dict(sorted(counts.items())),
        )

    def save(self, sink: Source) -> None:
        """Write it beside the shards."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        payload = json.dumps({**content, "digest": _digest(content)}, indent=1, ensure_ascii=False)
        sink.save(RECORD_NAME, payload.encode() + b"\n")


def shard_name(number: int) -> str:
    """Name of the n-th shard that is written."""
    return f"shard-{number:06d}.tar"


def find_record(sink: Source, options: Mapping[str, Any]) -> ShardRecord:
    """Where to begin: at the start in an empty place, else where the same work was interrupted or finished.

    Raises:
        CannotCreateError: the place holds other shards, or some that were made from another input or otherwise.
        CorruptError: the record is damaged.
        MissingError: shards that the record speaks of are gone.
    """
    stored = _load(sink)
    existing = _existing(sink)
    if stored is None:
        if existing:
            problem = f"{sink.base} holds {len(existing)} shards already."
            raise CannotCreateError(problem, hint="Choose another directory or delete them first.")
        return ShardRecord(options)
    if not existing and not stored.shards and stored.options != options:
        return ShardRecord(options)  # it failed at the first sample, and the arguments were mended
    differing = sorted(name for name in {*stored.options, *options} if stored.options.get(name) != options.get(name))
    if differing:
        raise CannotCreateError(
            f"{sink.base} holds shards that were made with other arguments (different: {', '.join(differing)}).",
            hint=_START_AGAIN,
        )
    if gone := sorted(set(stored.shard_names()) - existing):
        problem = f"{sink.base} lacks {gone[0]}, which {RECORD_NAME} says is there ({len(gone)} missing)."
        raise MissingError(problem, hint=_START_AGAIN)
    return stored


def _existing(sink: Source) -> set[str]:
    try:
        return set(sink.list_shards())
    except MissingError:
        return set()


def _load(sink: Source) -> ShardRecord | None:
    try:
        payload = sink.load(RECORD_NAME)
    except MissingError:
        return None
    try:
        content = json.loads(payload)
        digest = content.pop("digest")
        known = (content.pop("format"), content.pop("version")) == (FORMAT, VERSION)
        if not known or digest != _digest({"format": FORMAT, "version": VERSION, **content}):
            raise ValueError("another format or digest")
        return ShardRecord(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{sink.base}/{RECORD_NAME} is damaged ({error}).", hint=_START_AGAIN) from error


def _digest(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())

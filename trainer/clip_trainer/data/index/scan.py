"""Reading a shard once, from first to last byte, to learn what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import xxhash

from clip_trainer.data.index.rows import ShardDetails, pack_rows
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.table import IndexedShard, ShardEntry
from clip_trainer.data.shards.grouping import (
    CAPTION_SUFFIXES,
    CLASS_SUFFIX,
    IMAGE_SUFFIXES,
    MemberName,
    SampleGrouping,
    split_name,
)
from clip_trainer.data.shards.sample import RawSample
from clip_trainer.data.shards.tar import Member, TarReader
from clip_trainer.data.shards.tar_header import BLOCK
from clip_trainer.data.storage.source import ObjectInfo, SequentialReader, Source
from clipctl.contract.errors import CorruptError

_MAX_SAMPLE = 1 << 30  # bytes; a "sample" beyond this is a tar of something else
_ALL = SampleRules()


def scan_shard(
    source: Source, info: ObjectInfo, rules: SampleRules = _ALL, on_bytes: Callable[[int], None] = lambda count: None
) -> IndexedShard:
    """Index one shard.

    Args:
        source: where the shard is.
        info: what the store says about it.
        rules: which samples to list.
        on_bytes: called with the number of bytes of every chunk read.

    Raises:
        CorruptError: not a tar, damaged, empty, without images, or with samples that are not in one piece.
    """
    whole = xxhash.xxh3_128()

    def on_chunk(chunk: bytes) -> None:
        whole.update(chunk)
        on_bytes(len(chunk))

    where = f"{source.base}/{info.name}"
    if info.bytes == 0:
        raise CorruptError(f"{where} is empty (0 bytes).", hint="Fetch or pack the shard again.")
    scan = _Scan(where, SequentialReader(source, info, on_chunk).read, rules)
    scan.run()
    block = scan.block()
    entry = ShardEntry(
        name=info.name,
        bytes=info.bytes,
        etag=info.etag or "",
        modified=info.modified,
        xxh3=whole.intdigest(),
        block_at=0,
        block_bytes=len(block),
        block_check=xxhash.xxh3_64_intdigest(block),
        samples=len(scan.starts),
        images=scan.listed["image"],
        captions=scan.listed["caption"],
        classes=scan.listed["class"],
    )
    return IndexedShard(entry, block)


class _Pending:
    """Bytes of the stream that no sample has claimed yet, without copying them."""

    def __init__(self, read: Callable[[int], bytes], where: str) -> None:
        self._read, self._where = read, where
        self._pieces: list[bytes] = []
        self._begin = self._end = 0  # offsets of the pieces in the stream

    def read(self, count: int) -> bytes:
        """The tar reader's `read`."""
        data = self._read(count)
        self._pieces.append(data)
        self._end += len(data)
        if self._end - self._begin > _MAX_SAMPLE:
            raise CorruptError(f"{self._where} holds a member of more than {_MAX_SAMPLE} bytes.")
        return data

    def take(self, start: int) -> list[bytes]:
        """All pending bytes from offset `start` on; those before it belong to no sample."""
        skip, first = start - self._begin, 0
        while skip > 0 and len(self._pieces[first]) <= skip:
            skip -= len(self._pieces[first])
            first += 1
        pieces = self._pieces[first:]
        if skip > 0:
            pieces[0] = pieces[0][skip:]
        self._pieces, self._begin = [], self._end
        return pieces

    @property
    def begin(self) -> int:
        """Offset of the first pending byte."""
        return self._begin


class _Scan:
    """Cuts a shard's byte stream into samples while the tar reader walks over it."""

    def __init__(self, where: str, read: Callable[[int], bytes], rules: SampleRules) -> None:
        self._where, self._rules = where, rules
        self._reads = rules.reads
        self._pending = _Pending(read, where)
        self._groups = SampleGrouping(where, keep_duplicates=rules.duplicates == "keep")
        self._key, self._start, self._end = "", 0, 0
        self._check: xxhash.xxh3_64 | None = None  # of the open sample
        self._suffixes: set[str] = set()
        self._contents: dict[str, bytes] = {}
        self._lengths: list[int] = []
        self._checks: list[int] = []
        self._seen: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self.starts: list[int] = []
        self.listed: Counter[str] = Counter()

    def run(self) -> None:
        """Walk over the whole shard."""
        for member in TarReader(self._pending.read, self._where, wanted=self._wanted):
            name = split_name(member.name)
            if name is not None:
                self._add(member, name)
        self._close_sample()
        if not self._seen:
            raise CorruptError(f"{self._where} holds no samples.", hint="Leave empty shards out of the dataset.")
        if not any(suffix in self._seen for suffix in IMAGE_SUFFIXES):
            found = ", ".join(sorted(self._seen)[:8])
            raise CorruptError(
                f"{self._where} holds no images (members end in: {found}).",
                hint=f"Samples need a member ending in {', '.join(IMAGE_SUFFIXES)}.",
            )

    def block(self) -> bytes:
        """The rows of the listed samples."""
        details = ShardDetails(dict(self._seen), dict(self._left_out))
        return pack_rows(self.starts, self._lengths, self._checks, details)

    def _wanted(self, name: str) -> bool:
        if not self._reads:
            return False
        split = split_name(name)
        return split is not None and split.suffix in self._reads

    def _add(self, member: Member, name: MemberName) -> None:
        if self._groups.begins_sample(name):
            self._close_sample()
            self._key, self._start = name.key, member.header_offset
            self._check = xxhash.xxh3_64()
            pieces = self._pending.take(member.header_offset)
        else:
            # What lies between members of one sample, a directory for instance, is read with it.
            pieces = self._pending.take(self._pending.begin)
        assert self._check is not None, "the first member begins a sample"
        for piece in pieces:
            self._check.update(piece)
        self._end = member.data_offset + member.size + -member.size % BLOCK
        self._suffixes.add(name.suffix)
        if member.data is not None:
            self._contents[name.suffix] = member.data

    def _close_sample(self) -> None:
        if self._check is None:
            return
        self._seen.update(self._suffixes)
        reason = self._rules.objection(self._suffixes, RawSample(self._key, self._contents))
        if reason is not None:
            self._left_out[reason] += 1
        else:
            self._list_sample(self._check.intdigest() & 0xFFFFFFFF)
        self._check, self._suffixes, self._contents = None, set(), {}

    def _list_sample(self, check: int) -> None:
        length = self._end - self._start
        if length > _MAX_SAMPLE:
            raise CorruptError(f"{self._where} holds a sample of more than {_MAX_SAMPLE} bytes.")
        assert length > 0, "a sample has at least one header"
        assert length % BLOCK == 0, "samples end at a block border"
        self.starts.append(self._start // BLOCK)
        self._lengths.append(length // BLOCK)
        self._checks.append(check)
        for need, suffixes in (("image", IMAGE_SUFFIXES), ("caption", CAPTION_SUFFIXES), ("class", (CLASS_SUFFIX,))):
            self.listed[need] += not self._suffixes.isdisjoint(suffixes)

"""Reading a shard once, from first to last byte, to learn what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import xxhash

from clip_trainer.data.grouping import IMAGE_SUFFIXES, MemberName, split_name
from clip_trainer.data.index_format import ShardInfo, pack_uint32, sample_check
from clip_trainer.data.source import ObjectInfo, SequentialReader, Source
from clip_trainer.data.tar import BLOCK, Member, TarReader
from clipctl.contract.errors import CorruptError

_MAX_SAMPLE = 1 << 30  # bytes; a "sample" beyond this is a tar of something else


def scan_shard(source: Source, name: str, on_bytes: Callable[[int], None] = lambda count: None) -> ShardInfo:
    """Index one shard.

    Args:
        source: where the shard is.
        name: its name below the source's base.
        on_bytes: called with the number of bytes of every chunk read.

    Raises:
        CorruptError: not a tar, damaged, empty, without images, or with samples that are not in one piece.
    """
    info = source.info(name)
    whole = xxhash.xxh3_128()

    def on_chunk(chunk: bytes) -> None:
        whole.update(chunk)
        on_bytes(len(chunk))

    where = f"{source.base}/{name}"
    if info.bytes == 0:
        raise CorruptError(f"{where} is empty (0 bytes).", hint="Fetch or pack the shard again.")
    stream = SequentialReader(source, info, on_chunk)
    scan = _Scan(where, stream.read)
    scan.run()
    return scan.result(info, whole.hexdigest())


class _Scan:
    """Cuts a shard's byte stream into samples while the tar reader walks over it."""

    def __init__(self, where: str, read: Callable[[int], bytes]) -> None:
        self._where, self._read = where, read
        self._held = bytearray()  # bytes from the last cut on
        self._cut_at = 0
        self._start: int | None = None
        self._key = ""
        self._seen: set[str] = set()
        self._members: set[str] = set()
        self._suffixes: Counter[str] = Counter()
        self._lengths: list[int] = []
        self._checks: list[int] = []

    def run(self) -> None:
        """Walk over the whole shard."""
        tar = TarReader(self._tee, self._where)
        for member in tar:
            name = split_name(member.name)
            if name is not None:
                self._add(member, name)
        if self._start is not None:
            self._close_sample(tar.end)

    def result(self, info: ObjectInfo, digest: str) -> ShardInfo:
        """What was found."""
        if self._start is None:
            raise CorruptError(f"{self._where} holds no samples.", hint="Leave empty shards out of the dataset.")
        if not any(suffix in self._suffixes for suffix in IMAGE_SUFFIXES):
            found = ", ".join(sorted(self._suffixes)[:8])
            raise CorruptError(
                f"{self._where} holds no images (members end in: {found}).",
                hint=f"Samples need a member ending in {', '.join(IMAGE_SUFFIXES)}.",
            )
        return ShardInfo(
            url=info.name,
            bytes=info.bytes,
            samples=len(self._lengths),
            etag=info.etag,
            xxh3=digest,
            start=self._start,
            lengths=pack_uint32(self._lengths),
            checks=pack_uint32(self._checks),
            suffixes=dict(sorted(self._suffixes.items())),
        )

    def _tee(self, count: int) -> bytes:
        data = self._read(count)
        self._held += data
        if len(self._held) > _MAX_SAMPLE:
            raise CorruptError(f"{self._where} holds a sample of more than {_MAX_SAMPLE} bytes.")
        return data

    def _add(self, member: Member, name: MemberName) -> None:
        if self._start is None or name.key != self._key:
            if self._start is None:
                self._start = member.header_offset
                self._drop_held(member.header_offset)
            else:
                self._close_sample(member.header_offset)
            self._open_sample(name.key)
        if name.suffix in self._members:
            raise CorruptError(
                f"{self._where}: sample {name.key!r} has two members {name.suffix!r}.",
                hint="Give every sample its own key and pack the shard again.",
            )
        self._members.add(name.suffix)
        self._suffixes[name.suffix] += 1

    def _open_sample(self, key: str) -> None:
        if key in self._seen:
            raise CorruptError(
                f"{self._where}: the key {key!r} occurs twice, apart from each other.",
                hint="Keys must be unique and a sample's members must follow each other; pack the shard again.",
            )
        self._seen.add(key)
        self._key = key
        self._members = set()

    def _close_sample(self, end: int) -> None:
        length = end - self._cut_at
        assert length > 0, "a sample has at least one header"
        assert length % BLOCK == 0, "samples end at a block border"
        self._lengths.append(length // BLOCK)
        self._checks.append(sample_check(bytes(self._held[:length])))
        self._drop_held(end)

    def _drop_held(self, end: int) -> None:
        del self._held[: end - self._cut_at]
        self._cut_at = end

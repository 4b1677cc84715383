"""The shard index: what is in the shards, so that any sample is one ranged read away.

`index.json` lies beside the shards. It is canonical JSON (sorted keys, no spaces) of

    {"format": "clipctl-shard-index", "version": 1, "shards": [...], "digest": "<xxh3-128 of all the rest>"}

with, for every shard, `url` (relative name), `bytes`, `samples`, `etag` (or null), `xxh3` (xxh3-128 of the content),
`start` (offset of the first sample), `suffixes` (how many samples have which member) and two arrays with one number
per sample, as base64 of little-endian uint32: `lengths` (in tar blocks of 512 bytes, headers and padding included;
samples follow each other without a gap) and `checks` (low 32 bits of the xxh3-64 of those bytes). The checks make
every single read end-to-end verified without reading whole shards.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
from array import array
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import xxhash

from clip_trainer.data.source import checked_name
from clip_trainer.data.tar import BLOCK
from clipctl.contract.errors import ClipError, CorruptError

FORMAT = "clipctl-shard-index"
VERSION = 1

_HINT = "Build it again with `clipctl data index --force`."
_UINT32 = "I"
assert array(_UINT32).itemsize == 4, "the index needs a C unsigned int of 32 bits"


def sample_check(data: bytes) -> int:
    """The 32-bit check of a sample's bytes."""
    return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF


@dataclass(frozen=True)
class ShardInfo:
    """One shard: its identity and where its samples lie."""

    url: str  # relative to the dataset's base
    bytes: int
    samples: int
    etag: str | None
    xxh3: str  # xxh3-128 of the content, hex
    start: int  # offset of the first sample, bytes
    lengths: str = field(repr=False)  # see the module docstring
    checks: str = field(repr=False)
    suffixes: dict[str, int] = field(default_factory=dict)  # suffix -> samples that have it

    @cached_property
    def offsets(self) -> array[int]:
        """`samples + 1` borders of the samples, in blocks from `start`."""
        return array("Q", accumulate(unpack_uint32(self.lengths), initial=0))

    @cached_property
    def check_values(self) -> array[int]:
        """The check of every sample."""
        return unpack_uint32(self.checks)

    def sample_range(self, index: int) -> tuple[int, int]:
        """Offset and length in bytes of one sample's members."""
        first, last = self.offsets[index], self.offsets[index + 1]
        return self.start + first * BLOCK, (last - first) * BLOCK

    def count_with(self, *suffixes: str) -> int:
        """An upper bound on the samples that have one of these suffixes; zero exactly if none has."""
        return min(self.samples, sum(self.suffixes.get(suffix, 0) for suffix in suffixes))


@dataclass(frozen=True)
class ShardIndex:
    """The shards of a dataset, in order."""

    shards: tuple[ShardInfo, ...]
    version: int = VERSION

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Samples of each shard."""
        return tuple(shard.samples for shard in self.shards)

    @cached_property
    def first_ids(self) -> tuple[int, ...]:
        """Global id of each shard's first sample."""
        return tuple(accumulate(self.counts, initial=0))[:-1]

    @property
    def samples(self) -> int:
        """Samples of the dataset."""
        return sum(self.counts)

    @property
    def total_bytes(self) -> int:
        """Bytes of the dataset."""
        return sum(shard.bytes for shard in self.shards)

    @cached_property
    def digest(self) -> str:
        """xxh3-128 of the index file's content, hex."""
        return _digest(self._content())

    @cached_property
    def identity(self) -> str:
        """xxh3-128 over names and content digests in order: equal for copies of a dataset, wherever they are."""
        lines = (f"{shard.url}\0{shard.samples}\0{shard.xxh3}\n" for shard in self.shards)
        return xxhash.xxh3_128_hexdigest("".join(lines).encode())

    def subset(self, names: tuple[str, ...]) -> ShardIndex:
        """The index of these shards only, in this order. Raises KeyError for a shard that is not in it."""
        by_name = {shard.url: shard for shard in self.shards}
        return replace(self, shards=tuple(by_name[name] for name in names))

    def to_json(self) -> bytes:
        """The index file."""
        return _canonical({**self._content(), "digest": self.digest})

    @staticmethod
    def from_json(payload: bytes, where: str = "index.json") -> ShardIndex:
        """Parse and check an index file.

        Raises:
            CorruptError: it is damaged, of another format or version, or contradicts itself.
        """
        content = _parsed(payload, where)
        digest = content.pop("digest", None)
        if digest != _digest(content):
            raise CorruptError(f"{where} does not match its own digest.", hint=_HINT)
        try:
            index = ShardIndex(tuple(_shard(entry) for entry in content["shards"]), content["version"])
        except ClipError as error:
            raise CorruptError(f"{where}: {error.problem}", hint=_HINT) from error
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise CorruptError(f"{where} is not a valid shard index ({error}).", hint=_HINT) from error
        return index

    def _content(self) -> dict[str, Any]:
        names = ("url", "bytes", "samples", "etag", "xxh3", "start", "lengths", "checks", "suffixes")
        shards = [{name: getattr(shard, name) for name in names} for shard in self.shards]
        return {"format": FORMAT, "version": self.version, "shards": shards}


def pack_uint32(numbers: list[int]) -> str:
    """Base64 of little-endian uint32 numbers."""
    packed = array(_UINT32, numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()


def unpack_uint32(text: str) -> array[int]:
    """The numbers that `pack_uint32` packed."""
    numbers = array(_UINT32, base64.b64decode(text, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _parsed(payload: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(payload)
    except ValueError as error:
        raise CorruptError(f"{where} is not JSON: it is damaged or another file.", hint=_HINT) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CorruptError(f"{where} is not a shard index of clipctl.", hint=_HINT)
    if content.get("version") != VERSION:
        raise CorruptError(f"{where} has version {content.get('version')!r}; this clipctl reads {VERSION}.", hint=_HINT)
    return content


def _shard(entry: dict[str, Any]) -> ShardInfo:
    shard = ShardInfo(**entry)
    checked_name(shard.url)
    _require(isinstance(shard.samples, int) and shard.samples > 0, shard, "it holds no samples")
    _require(isinstance(shard.bytes, int) and isinstance(shard.start, int) and shard.start >= 0, shard, "bad sizes")
    # A base64 group of 4 characters holds 3 bytes; comparing lengths leaves the decoding to the first use.
    characters = 4 * ((4 * shard.samples + 2) // 3)
    sized = len(shard.lengths) == len(shard.checks) == characters
    _require(sized, shard, "its sample count and its offsets disagree")
    return shard


def _require(condition: bool, shard: ShardInfo, problem: str) -> None:
    if not condition:
        raise CorruptError(f"shard {shard.url}: {problem}.")


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _digest(content: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(_canonical(content))

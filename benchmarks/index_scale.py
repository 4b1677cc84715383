"""How an index scales: seconds and memory until a run of N samples has its first batch, and how fast shards are read.

    .venv/bin/python benchmarks/index_scale.py [--largest 100000000]

Opening: an index is made up on disk for each size, with 1000 samples a shard (100 for the largest, so a million
shards), and a process of its own opens it (files in the page cache), builds the sample order, and looks up the first
batch and one far into a later epoch, as a resumed run does. Indexing: a shard in memory is scanned by one thread.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from array import array
from itertools import pairwise
from pathlib import Path

import xxhash

from clip_trainer.data.index.header import IndexHeader, TableRef
from clip_trainer.data.index.rows import ShardDetails, pack_rows
from clip_trainer.data.index.scan import scan_shard
from clip_trainer.data.index.table import ShardTable, encode_head
from clip_trainer.data.storage.source import ObjectInfo, SourceCounters

BATCH = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=100_000_000)
    parser.add_argument("--open", help=argparse.SUPPRESS)  # the process that is measured
    options = parser.parse_args()
    if options.open:
        print(json.dumps(measure(options.open)))
        return
    show_opening(options.largest)
    show_indexing()


def show_opening(largest: int) -> None:
    titles = ("open", "order", "batch", "resume", "all", "CPU", "RSS")
    print(f"{'samples':>12} {'shards':>10} {' '.join(f'{title:>9}' for title in titles)}")
    size = 1000
    while size <= largest:
        with tempfile.TemporaryDirectory() as directory:
            shards = make_index(Path(directory), size, 100 if size == 100_000_000 else 1000)
            command = [sys.executable, __file__, "--open", directory]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        steps = ("open", "order", "batch", "resume", "wall", "cpu")
        times = "".join(f" {found[name] * 1000:>6.1f} ms" for name in steps)
        print(f"{size:>12,} {shards:>10,}{times} {found['rss'] / 2**20:>5.0f} MiB", flush=True)
        size *= 10


def measure(directory: str) -> dict[str, float]:
    """Seconds of each step, in this process; imports are done, since a run needs them anyhow."""
    from clip_trainer.data.index.dataset import open_dataset
    from clip_trainer.data.order.lanes import SampleOrder

    SampleOrder([1], seed=0, lanes=1).batch(0, 1)  # what numpy loads on first use is not the index's fault
    before, cpu = memory(), time.process_time()
    marks = [time.perf_counter()]
    dataset = open_dataset(directory, check="none")
    marks.append(time.perf_counter())
    order = SampleOrder(dataset.counts, seed=0, lanes=256, shuffle_block=1024)
    marks.append(time.perf_counter())
    first = order.local_batch(0, BATCH, 0, 8)
    for ref in first[:64]:
        dataset.index.shards[ref.shard].sample_range(ref.index_in_shard)
    marks.append(time.perf_counter())
    cpu = time.process_time() - cpu
    order.local_batch(37 * order.samples + order.samples // 2, BATCH, 0, 8)
    marks.append(time.perf_counter())
    steps = [end - start for start, end in pairwise(marks)]
    named = dict(zip(("open", "order", "batch", "resume"), steps, strict=True))
    return {**named, "wall": marks[3] - marks[0], "cpu": cpu, "rss": memory() - before}


def memory() -> int:
    """Greatest resident set so far, bytes; unlike `ru_maxrss` not that of the parent before `exec`."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def make_index(directory: Path, samples: int, per_shard: int) -> int:
    """Write an index of shards that do not exist; returns their number."""
    shards = samples // per_shard
    details = ShardDetails({"jpg": per_shard})
    block = pack_rows(range(0, 100 * per_shard, 100), [100] * per_shard, range(per_shard), details)
    same = {
        **{"bytes": 51_200 * per_shard, "modified": 0, "xxh3_high": 1, "xxh3_low": 2, "block_bytes": len(block)},
        **{"block_check": xxhash.xxh3_64_intdigest(block), "samples": per_shard},
        **{"images": per_shard, "captions": per_shard, "classes": 0},
    }
    small = ("block_bytes", "samples", "images", "captions", "classes")
    columns = {name: array("I" if name in small else "Q", [value]) * shards for name, value in same.items()}
    columns["block_at"] = array("Q", range(0, shards * len(block), len(block)))
    columns["name_end"] = array("Q", range(16, 16 * shards + 1, 16))
    columns["etag_end"] = array("Q", range(32, 32 * shards + 1, 32))
    names = b"".join(b"part-%07d.tar" % shard for shard in range(shards))
    table = ShardTable(columns, names, os.urandom(32 * shards // 2).hex().encode())
    write_index(directory, table, block, shards)
    return shards


def write_index(directory: Path, table: ShardTable, block: bytes, shards: int) -> None:
    head = encode_head(table)
    digest = xxhash.xxh3_128_hexdigest(head)
    size = len(head) + len(block) * shards
    reference = TableRef(f"index-{digest}.bin", size, len(head), digest)
    totals = (sum(table.columns["samples"]), sum(table.columns["bytes"]))
    header = IndexHeader(shards, *totals, table.content_digest(), reference)
    with (directory / reference.name).open("wb") as file:
        file.write(head)
        for first in range(0, shards, 1000):
            file.write(block * min(1000, shards - first))
    (directory / "index.json").write_bytes(header.to_json())


class Memory:
    """A shard in memory."""

    base, remote = "memory", False

    def __init__(self, content: bytes) -> None:
        self.content, self.counters = content, SourceCounters()

    def read(self, name: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        return self.content[offset : offset + length]


def show_indexing() -> None:
    print(f"\n{'image':>9} {'samples':>9} {'shard':>9} {'per sample':>12} {'one core':>10}")
    for image, samples in ((5_000, 20_000), (50_000, 4_000), (500_000, 400)):
        content = make_shard(image, samples)
        source, info = Memory(content), ObjectInfo("s.tar", len(content), None)
        best = min(timed(source, info) for _ in range(3))
        print(
            f"{image / 1000:>6.0f} kB {samples:>9,} {len(content) / 1e6:>6.0f} MB {best / samples * 1e6:>9.1f} us"
            f" {len(content) / best / 1e6:>5.0f} MB/s"
        )


def timed(source: Memory, info: ObjectInfo) -> float:
    """CPU seconds of one scan."""
    start = time.process_time()
    scan_shard(source, info)  # type: ignore[arg-type]
    return time.process_time() - start


def make_shard(image: int, samples: int) -> bytes:
    """Samples of an image, a caption and what img2dataset writes about them."""
    buffer = io.BytesIO()
    pixels = os.urandom(image)
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(samples):
            for suffix, data in (("jpg", pixels), ("txt", b"a picture of something" * 2), ("json", b"{}" * 200)):
                header = tarfile.TarInfo(f"{number:09d}.{suffix}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


if __name__ == "__main__":
    main()

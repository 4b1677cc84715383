"""Resident memory of a process that loads batches, epoch by epoch: it has to stay where it was after the first ones.

    python benchmarks/loader_memory.py

Nothing is trained, so what grows is the loader's. The batch that is held and those ahead are part of it all the time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import photos
import sides
import torch

BATCH = 64
WARM = 3


def resident() -> float:
    """Resident memory of this process, MB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def main() -> None:
    """Load epochs and print the memory after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=512, help="of an epoch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="clipctl-memory-") as temporary:
        data = Path(temporary)
        photos.write_shards(data, shards=4, samples=options.samples // 4, width=500, unique=100)
        measured: list[float] = []
        seen = 0
        for size in sides.own_batches(data, BATCH, options.epochs * options.samples):
            seen += size
            if seen % options.samples < BATCH:
                measured.append(resident())
                print(f"epoch {len(measured):3d}  {measured[-1]:7.1f} MB", flush=True)
    change = measured[-1] - measured[WARM - 1]
    print(f"change from epoch {WARM} to {len(measured)}: {change:+.1f} MB")


if __name__ == "__main__":
    main()

"""Samples per second from shards to batches: this project's loader against OpenCLIP's, on the same photos.

    python benchmarks/loader.py                   # both kinds of photos, five rounds
    python benchmarks/loader.py --rounds 3 --photos small

Every measurement is a process of its own, and the sides take turns, so that a busy machine slows both. The first batch
is counted from the construction of the pipeline (nothing is imported in that time). CPU time is that of all threads
and worker processes. Memory is that of the process with its children, at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import photos
import sides

BATCH = 64


class Kind(NamedTuple):
    """Photos of one size, and how many samples a measurement takes."""

    width: int
    shards: int
    samples: int
    unique: int
    measured: int


KINDS = {"small": Kind(500, 4, 1000, 150, 2560), "large": Kind(1600, 4, 160, 24, 640)}
SIDES: dict[str, Callable[..., Iterator[int]]] = {
    "OpenCLIP": sides.open_clip_batches,
    "OpenCLIP, no shuffle buffer": partial(sides.open_clip_batches, shuffle=False),
    "clipctl": sides.own_batches,
    "clipctl, reduced decoding": partial(sides.own_batches, reduced=True),
}
BASE = "OpenCLIP"


def cpu_seconds() -> float:
    """User and system time of this process and of the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(side: str, directory: Path, samples: int) -> dict[str, float]:
    """One pass of one side, in this process."""
    import torch

    torch.set_num_threads(1)
    if side.startswith(BASE):
        sides.import_open_clip()
        import open_clip_train.data  # noqa: F401
    else:
        import clip_trainer.data.index.dataset
        import clip_trainer.data.loading.loader
        import clip_trainer.text
        import clip_trainer.vision.transform  # noqa: F401
    cpu, started = cpu_seconds(), time.perf_counter()
    first, count = 0.0, 0
    for size in SIDES[side](directory, BATCH, samples):
        first = first or time.perf_counter() - started
        count += size
    wall = time.perf_counter() - started
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "rate": count / wall,
        "cpu": (cpu_seconds() - cpu) / count * 1e6,
        "first": first * 1e3,
        "peak": peak / 1024,
    }


def measured_apart(side: str, directory: Path, samples: int) -> dict[str, float]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--measure", side, "--data", str(directory), "--samples", str(samples)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def print_table(name: str, results: dict[str, list[dict[str, float]]]) -> None:
    """Medians of every side, and how they compare with OpenCLIP's."""
    medians = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for side, runs in results.items()
    }
    base = medians[BASE]
    print(f"\n{name}: medians of {len(results[BASE])} rounds, least to most samples/s in brackets; batch {BATCH}")
    print(f"{'':30s} {'samples/s':>24s} {'ratio':>6s} {'CPU us':>8s} {'ratio':>6s} {'first ms':>9s} {'peak MB':>8s}")
    for side, row in medians.items():
        rates = [run["rate"] for run in results[side]]
        spread = f"{row['rate']:7.0f} ({min(rates):.0f} to {max(rates):.0f})"
        print(
            f"{side:30s} {spread:>24s} {row['rate'] / base['rate']:5.2f}x {row['cpu']:8.0f} "
            f"{base['cpu'] / row['cpu']:5.2f}x {row['first']:9.0f} {row['peak']:8.0f}"
        )


def compare(name: str, rounds: int, directory: Path) -> None:
    """All sides on one kind of photos, taking turns."""
    kind = KINDS[name]
    data = directory / name
    photos.write_shards(data, shards=kind.shards, samples=kind.samples, width=kind.width, unique=kind.unique)
    from clip_trainer.data.index.dataset import index_dataset

    index_dataset(str(data))
    results: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for side in SIDES:
            results.setdefault(side, []).append(measured_apart(side, data, kind.measured))
    print_table(f"{name} photos ({kind.width} px)", results)


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", choices=(*KINDS, "both"), default="both")
    parser.add_argument("--data", type=Path, help="where the data is made, and kept for the next time")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.data, options.samples)))
        return
    with tempfile.TemporaryDirectory(prefix="clipctl-loader-") as temporary:
        for name in KINDS if options.photos == "both" else (options.photos,):
            compare(name, options.rounds, options.data or Path(temporary))


if __name__ == "__main__":
    main()

"""How long training stands still for a snapshot of a sharded state in the memory of two nodes.

    python benchmarks/snapshot_stall.py --rounds 7

Two processes, each standing for a node, share a state of the size of ViT-B-32 with AdamW's moments, half of it each. In
each round they do in turns:

- `snapshot`: `SnapshotKeeper.keep`: each copies its half to /dev/shm, and sends a copy to the other through gloo.
- `copy`: the same without the other: what a node alone does.
- `torch.save` of the half to a file in /dev/shm, which the loss of the node would take with it.

Both must have come to the same point before each; the slower one's seconds count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from checkpoint_stall import state_of

from clip_testkit.ranks import run_ranks
from clip_testkit.rankwork import group_of
from clip_trainer.checkpoint.memory_keep import SnapshotKeeper
from clip_trainer.checkpoint.memory_shares import MemoryShares, SnapshotId
from clip_trainer.checkpoint.tensors import partition

RANKS = 2
SIDES = ("snapshot", "copy", "torch.save")


def measure(rank: int, rounds: int, gigabytes: float, folder: str) -> dict[str, list[float]]:
    """Seconds of each side by round, on this rank."""
    group, own = group_of(rank, RANKS), Path(folder) / str(rank)
    parts = state_of(gigabytes)
    every = {(part, name): tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    half = {f"{part}.{name}": every[part, name] for part, name in partition(every, RANKS)[rank]}
    keepers = {
        "snapshot": SnapshotKeeper(group, MemoryShares(own / "pair"), f"node-{rank}"),
        "copy": SnapshotKeeper(group, MemoryShares(own / "alone"), "node"),
    }
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds + 3):  # the first ones take the memory that later ones use again
        for side in SIDES:
            if side == "torch.save":
                work = partial(torch.save, half, own / "half.pt")
            else:
                work = partial(keepers[side].keep, SnapshotId(1, number, RANKS), parts, {})
            group.barrier()
            began = time.perf_counter()
            work()
            seconds[side].append(time.perf_counter() - began)
            if side != "torch.save" and keepers[side].shortage:
                raise RuntimeError(keepers[side].shortage)
    return {side: values[3:] for side, values in seconds.items()}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gigabytes", type=float, default=1.81, help="of the whole state")
    options = parser.parse_args()
    memory = tempfile.mkdtemp(prefix="snapshot-stall-", dir="/dev/shm")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            answers = run_ranks(RANKS, Path(scratch), measure, options.rounds, options.gigabytes, memory)
    finally:
        shutil.rmtree(memory)
    print(f"{options.gigabytes:g} GB over {RANKS} ranks, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    for side in SIDES:
        slower = [max(pair) * 1000 for pair in zip(*(answer[side] for answer in answers), strict=True)]
        print(f"{side:12} median {statistics.median(slower):6.0f} ms  range {min(slower):.0f}-{max(slower):.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

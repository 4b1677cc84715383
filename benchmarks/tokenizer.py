"""Microseconds of CPU time per caption: this project's tokenizer against OpenCLIP's, on the same captions.

    python benchmarks/tokenizer.py

The sides take turns. Both are called as their loaders call them, OpenCLIP's caption by caption, ours by batches; and
OpenCLIP's by batches too. Every side's memo of words is warm after the first round, which is not counted; the captions
are new in every round, with new words among them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import photos
import sides
import torch

BATCH = 64


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--captions", type=int, default=4096)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sides.import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    from clip_trainer.text import BpeTokenizer

    theirs, ours = SimpleTokenizer(), BpeTokenizer()

    def batches(texts: list[str], call: Callable[[list[str]], object]) -> list[torch.Tensor]:
        starts = range(0, len(texts), BATCH)
        return [torch.as_tensor(call(texts[start : start + BATCH])) for start in starts]

    variants: dict[str, Callable[[list[str]], list[torch.Tensor]]] = {
        "OpenCLIP, one by one": lambda texts: [theirs(text) for text in texts],
        "OpenCLIP, batches": lambda texts: batches(texts, theirs),
        "clipctl, batches": lambda texts: batches(texts, ours),
    }
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(options.rounds + 1):
        texts = [photos.caption(rng) for _ in range(options.captions)]
        results = []
        for name, call in variants.items():
            started = time.process_time()
            results.append(torch.cat(call(texts)))
            times[name] += [(time.process_time() - started) / len(texts) * 1e6] if turn else []
        assert all(torch.equal(result, results[0]) for result in results), "the ids differ"
    base = statistics.median(times["OpenCLIP, one by one"])
    print(f"medians of {options.rounds} rounds of {options.captions} captions, least to most in brackets; ids equal")
    for name, values in times.items():
        median = statistics.median(values)
        spread = f"({min(values):.1f} to {max(values):.1f})"
        print(f"{name:22s} {median:7.1f} us/caption {spread:18s} {base / median:5.2f}x")


if __name__ == "__main__":
    main()

"""How much damage to a checkpoint goes unnoticed: none may.

    .venv/bin/python benchmarks/checkpoint_corruption.py [--cases 100000] [--seed 1]

Each case damages one object of the newer of two checkpoints in memory (flip, cut, swap, zero, append, duplicate,
delete, rename) and reads the run as the trainer does, whole objects and single tensors by ranges. It is *noticed* if
the checkpoint is rejected with a report, and *same bytes read* if exactly what was saved is read in spite of it.
Anything else is WRONG and makes the exit status 1. Not tried: losing the commit record and LATEST at once.
"""

from __future__ import annotations

import argparse
import sys
import time

sys.path.insert(0, "testkit")

from clip_testkit.corruption import HARMLESS, NOTICED, WRONG, run

COLUMNS = (NOTICED, HARMLESS, WRONG)


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    tally = run(options.cases, options.seed)
    print(f"{tally.cases} cases, seed {options.seed}, {time.monotonic() - began:.0f} s\n")
    print("| Damage | Cases | " + " | ".join(COLUMNS) + " |\n| --- |" + " --- |" * (len(COLUMNS) + 1))
    for kind, outcomes in sorted(tally.outcomes.items()):
        print(f"| {kind} | {outcomes.total()} | " + " | ".join(str(outcomes[name]) for name in COLUMNS) + " |")
    for number, damage, why in tally.wrong[:20]:
        print(f"WRONG: case {number}, {damage.kind} of {damage.key}: {why}")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

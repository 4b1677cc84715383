"""Share of the time that is spent on steps that count, while workers are killed at random.

    python benchmarks/goodput.py --mtbf 60 300 --minutes 30

The real trainer with a tiny model; goodput is the time the run's steps would have taken, had nothing happened, over
the time it took. The run is judged like any soak: a run that is not clean has no goodput.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from clip_testkit.soak.__main__ import report
from clip_testkit.soak.plan import plan
from clip_testkit.soak.run import Setting, execute
from clip_testkit.soak.workload import undisturbed

KINDS = ["kill_worker"]


def main() -> None:
    """Print a report for every mean time between faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mtbf", type=float, nargs="+", default=[60.0, 300.0], help="mean seconds between two kills")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--pace", type=float, default=0.2, help="seconds that a step lasts at least")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    steps = max(40, int(options.minutes * 60 / (options.pace + 0.05)))
    setting = Setting("folder", options.nodes, 1, steps, options.pace)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reference = undisturbed(folder / "reference", steps, options.nodes)
        for mtbf in options.mtbf:
            faults = plan(options.seed, options.minutes * 60, mtbf, KINDS)
            outcome = execute(setting, faults, reference, folder / f"mtbf-{mtbf:g}")
            print(f"mean time between kills {mtbf:g} s, seed {options.seed}, load average {os.getloadavg()[0]:.1f}")
            print(report(outcome), flush=True)


if __name__ == "__main__":
    main()

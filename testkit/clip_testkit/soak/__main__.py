"""Long runs of real agents and workers under random faults, judged by their ledgers.

    python -m clip_testkit.soak --seed 1 --minutes 10 --mtbf 15 --nodes 3 --min-nodes 1 --record docs/track-record.jsonl

Seeds are printed. A run that is not clean is run again with fewer and fewer faults if `--shrink` is given.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clip_testkit.soak.plan import KINDS, Planned, plan
from clip_testkit.soak.record import CLEAN, Entry, append
from clip_testkit.soak.run import Outcome, Setting, execute
from clip_testkit.soak.shrink import shrink
from clip_testkit.soak.workload import Workload, undisturbed

_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, record; returns 1 if a run is not clean."""
    options = _parser().parse_args(arguments)
    setting = Setting(
        options.storage,
        options.nodes,
        options.min_nodes,
        _steps(options.minutes, options.pace),
        options.pace,
        _disk(),
        options.parallel,
    )
    with tempfile.TemporaryDirectory(prefix="clip-soak-") as scratch:
        folder = Path(scratch)
        print(f"undisturbed run of {setting.steps} steps", flush=True)
        reference = undisturbed(folder / "reference", setting.steps, setting.nodes)
        clean = [
            _one(options, setting, seed, reference, folder) for seed in range(options.seed, options.seed + options.runs)
        ]
    return 0 if all(clean) else 1


def _steps(minutes: float, pace: float) -> int:
    """About as many as fit, faults included; a multiple of ten."""
    return max(20, int(minutes * 60 / (pace + 0.05)) // 10 * 10)


def _disk() -> bool:
    return os.geteuid() == 0


def _one(options: argparse.Namespace, setting: Setting, seed: int, reference: Workload, folder: Path) -> bool:
    faults = plan(seed, options.minutes * 60, options.mtbf, setting.kinds(options.kinds))
    print(f"seed {seed}: {len(faults)} faults planned within {options.minutes:g} minutes", flush=True)
    outcome = execute(setting, faults, reference, folder / f"seed-{seed}")
    print(report(outcome), flush=True)
    if options.record is not None:
        append(options.record, entry(options, setting, seed, outcome))
    if outcome.verdict.clean:
        return True
    log = Path(options.logs) / f"soak-{seed}.log"
    log.write_text(outcome.log)
    print(f"what the processes said: {log}", flush=True)
    if options.shrink:
        _shrink(options, setting, faults, reference, folder / f"shrink-{seed}")
    return False


def report(outcome: Outcome) -> str:
    """A table of faults and the verdict."""
    verdict = outcome.verdict
    rows = [f"  {outcome.faults[name]:5} {name:20} {KINDS[name].text}" for name in KINDS if outcome.faults[name]]
    goodput = "" if verdict.goodput is None else f", goodput {verdict.goodput:.1%}"
    total = f"  {sum(outcome.faults.values()):5} in all; {verdict.steps} steps in {outcome.seconds:.0f} s{goodput}"
    problems = [f"  {problem}" for problem in verdict.problems[:_SHOWN]]
    if len(verdict.problems) > _SHOWN:
        problems.append(f"  and {len(verdict.problems) - _SHOWN} more problems")
    return "\n".join([*rows, total, *problems, f"  {_word(outcome)}"])


def entry(options: argparse.Namespace, setting: Setting, seed: int, outcome: Outcome) -> Entry:
    """The line for the record."""
    verdict = outcome.verdict
    return Entry(
        date=datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        seed=seed,
        storage=setting.storage,
        nodes=setting.nodes,
        min_nodes=setting.min_nodes,
        minutes=options.minutes,
        mtbf=options.mtbf,
        steps=verdict.steps,
        seconds=round(outcome.seconds, 1),
        goodput=None if verdict.goodput is None else round(verdict.goodput, 4),
        faults=dict(outcome.faults),
        verdict=_word(outcome),
        parallel=setting.parallel,
        command=f"python -m clip_testkit.soak --seed {seed} --minutes {options.minutes:g} --mtbf {options.mtbf:g} "
        f"--storage {setting.storage} --nodes {setting.nodes} --min-nodes {setting.min_nodes} --pace {setting.pace:g}"
        + (f" --parallel {setting.parallel}" if setting.parallel != "ddp" else "")
        + (f" --kinds {' '.join(options.kinds)}" if options.kinds else ""),
    )


def _word(outcome: Outcome) -> str:
    return CLEAN if outcome.verdict.clean else outcome.verdict.problems[0]


def _shrink(
    options: argparse.Namespace, setting: Setting, faults: list[Planned], reference: Workload, folder: Path
) -> None:
    tried = 0

    def fails(some: list[Planned]) -> bool:
        nonlocal tried
        tried += 1
        outcome = execute(setting, some, reference, folder / str(tried))
        print(f"with {len(some)} faults: {_word(outcome)}", flush=True)
        return not outcome.verdict.clean

    print("the shortest list that fails:", flush=True)
    for fault in shrink(faults, fails, options.tries):
        print(f"  {json.dumps(fault.to_json())}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m clip_testkit.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; later ones count up")
    parser.add_argument("--minutes", type=float, default=2.0, help="in which faults happen")
    parser.add_argument("--mtbf", type=float, default=15.0, help="mean seconds between faults")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--storage", choices=("folder", "s3"), default="folder")
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp", help="how ranks share the model")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--min-nodes", type=int, default=1)
    parser.add_argument("--pace", type=float, default=0.05, help="seconds that a step lasts at least")
    parser.add_argument("--kinds", nargs="*", default=(), choices=tuple(KINDS), help="default: all that are possible")
    parser.add_argument("--record", type=Path, help="add a line to this file")
    parser.add_argument("--logs", default=tempfile.gettempdir(), help="where the output of a run that fails goes")
    parser.add_argument("--shrink", action="store_true", help="find the shortest list of faults that fails")
    parser.add_argument("--tries", type=int, default=20, help="most runs for that")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The record of all runs under faults: JSON lines, and the page that is made from them.

python -m clip_testkit.soak.record docs/track-record.jsonl docs/track-record.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clip_testkit.soak.plan import KINDS

CLEAN = "clean"


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        date: day on which it ended.
        seed: of its plan.
        storage: "folder" or "s3".
        nodes: agents; `min_nodes` of them suffice.
        minutes: in which faults happened.
        mtbf: mean seconds between them.
        steps: optimiser steps of the run.
        seconds: from its first step to its end.
        goodput: time of its steps, had nothing happened, over `seconds`.
        faults: how often each kind happened.
        verdict: "clean", or what was wrong first.
        command: reproduces the plan.
        version: of this form.
        parallel: how the ranks shared the model.
    """

    date: str
    seed: int
    storage: str
    nodes: int
    min_nodes: int
    minutes: float
    mtbf: float
    steps: int
    seconds: float
    goodput: float | None
    faults: dict[str, int]
    verdict: str
    command: str
    version: int = field(default=1)
    parallel: str = "ddp"

    @property
    def injected(self) -> int:
        """Faults of all kinds."""
        return sum(self.faults.values())


def append(file: Path, entry: Entry) -> None:
    """Add a line to the record."""
    with file.open("a") as record:
        record.write(json.dumps(asdict(entry)) + "\n")


def read(file: Path) -> list[Entry]:
    """All lines of the record; none if there is no file."""
    if not file.exists():
        return []
    return [Entry(**json.loads(line)) for line in file.read_text().splitlines() if line.strip()]


_HEAD = """# Track record

Runs of real agents and workers under random faults on one machine. After each run its ledger is checked: every sample
exactly once and in order, the losses those of an undisturbed run, every checkpoint intact that was not damaged on
purpose, no process left over. This page is made from [track-record.jsonl](track-record.jsonl), one line a run;
`python -m clip_testkit.soak.record` writes it again.

A seed stands for a plan of faults, not for an outcome: what a fault hits depends on the moment. Goodput is the time of
the steps, had nothing happened, over the time of the run; a start of a worker takes seconds, many on a busy machine.
"""


def page(entries: Sequence[Entry]) -> str:
    """The record as Markdown."""
    clean = [entry for entry in entries if entry.verdict == CLEAN]
    faults: Counter[str] = Counter()
    for entry in entries:
        faults.update(entry.faults)
    totals = (
        f"{len(entries)} runs, {sum(faults.values())} faults, {sum(entry.steps for entry in entries)} steps; "
        f"{len(clean)} runs clean, {len(entries) - len(clean)} not."
    )
    kinds = [[f"`{name}`", KINDS[name].text, str(faults[name])] for name in KINDS if faults[name]]
    return "\n".join(
        [
            _HEAD,
            f"{totals}\n",
            *_table(["fault", "what happens", "times"], kinds),
            "\n## Runs\n",
            *_table(_COLUMNS, [_row(entry) for entry in entries]),
            "",
        ]
    )


_COLUMNS = [
    "day",
    "seed",
    "parallel",
    "storage",
    "nodes",
    "minutes",
    "MTBF (s)",
    "faults",
    "steps",
    "goodput",
    "verdict",
]


def _row(entry: Entry) -> list[str]:
    return [
        entry.date,
        str(entry.seed),
        entry.parallel,
        entry.storage,
        f"{entry.min_nodes}-{entry.nodes}",
        f"{entry.minutes:g}",
        f"{entry.mtbf:g}",
        str(entry.injected),
        str(entry.steps),
        "" if entry.goodput is None else f"{entry.goodput:.1%}",
        entry.verdict.replace("|", "/"),
    ]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m clip_testkit.soak.record", description=main.__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args(arguments)
    options.page.write_text(page(read(options.record)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

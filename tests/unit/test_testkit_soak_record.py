"""The record of runs, and the page made from it."""

import dataclasses
import json
from pathlib import Path

from clip_testkit.soak import record
from clip_testkit.soak.record import CLEAN, Entry

ROOT = Path(__file__).parents[2]
ENTRY = Entry(
    date="2030-01-02",
    seed=7,
    storage="folder",
    nodes=3,
    min_nodes=1,
    minutes=10,
    mtbf=12.5,
    steps=4000,
    seconds=650.0,
    goodput=0.934,
    faults={"kill_worker": 20, "kill_agent": 4},
    verdict=CLEAN,
    command="python -m clip_testkit.soak --seed 7",
)


def test_lines_are_read_back(tmp_path):
    file = tmp_path / "record.jsonl"
    assert record.read(file) == []
    other = dataclasses.replace(ENTRY, seed=8, goodput=None, verdict="gap at step 3: lost")
    record.append(file, ENTRY)
    record.append(file, other)
    assert record.read(file) == [ENTRY, other]
    assert [json.loads(line)["seed"] for line in file.read_text().splitlines()] == [7, 8]


def test_the_page_counts():
    bad = dataclasses.replace(ENTRY, seed=8, verdict="gap at step 3: a | b", faults={"kill_worker": 1}, goodput=None)
    text = record.page([ENTRY, bad])
    assert "2 runs, 25 faults, 8000 steps; 1 runs clean, 1 not." in text
    assert "| `kill_worker` | SIGKILL to a worker | 21 |" in text
    assert "| 2030-01-02 | 7 | ddp | folder | 1-3 | 10 | 12.5 | 24 | 4000 | 93.4% | clean |" in text
    assert "| 1 | 4000 |  | gap at step 3: a / b |" in text
    assert "disk_full" not in text


def test_the_command_writes_the_page(tmp_path):
    record.append(tmp_path / "r.jsonl", ENTRY)
    assert record.main([str(tmp_path / "r.jsonl"), str(tmp_path / "r.md")]) == 0
    assert (tmp_path / "r.md").read_text() == record.page([ENTRY])


def test_the_page_in_the_documentation_is_up_to_date():
    entries = record.read(ROOT / "docs" / "track-record.jsonl")
    assert (ROOT / "docs" / "track-record.md").read_text() == record.page(entries)

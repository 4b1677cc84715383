"""docs/openclip-differences.md names a test for each difference; the tests must exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "openclip-differences.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| What", "| ---"))]
REFERENCE = re.compile(r"`(test_\w+\.py)(?:::(\w+))?`")


def test_there_are_differences():
    assert len(ROWS) > 25


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:50])
def test_every_difference_is_tested(row):
    found = REFERENCE.findall(row.rstrip(" |").rpartition(" | ")[2])
    assert found, "no test is named"
    for file, function in found:
        paths = list((ROOT / "tests").rglob(file))
        assert len(paths) == 1, f"{file} is not one file"
        assert f"def {function or 'test_'}" in paths[0].read_text(encoding="utf-8"), f"{file} has no {function}"

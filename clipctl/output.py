"""The only way from clipctl to a terminal: everything is redacted and free of control characters.

Results go to standard output, one object with `--json`; notes, progress and errors go to standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from clipctl.contract.errors import ClipError
from clipctl.contract.redact import MASK, is_secret_name, mask_credentials, redact

_CONTROL = {code: None for code in (*range(32), 127, *range(0x80, 0xA0)) if code not in (9, 10)}


def say(text: str) -> None:
    """Print a result; characters that standard output cannot take become question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    print(clean(text).encode(encoding, "replace").decode(encoding))


def say_manifest(text: str) -> None:
    """Print YAML that will be applied: only credentials recognisable by themselves are masked."""
    print(mask_credentials(text).translate(_CONTROL), end="")


def say_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a result as JSON."""
    print(json.dumps(redact_tree(value), indent=indent, ensure_ascii=True, allow_nan=False))


def say_manifest_json(value: Any) -> None:
    """Print JSON that will be applied: only credentials recognisable by themselves are masked."""
    print(mask_credentials(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True)))


def note(text: str) -> None:
    """Print something that is not the result."""
    print(clean(text), file=sys.stderr)


def clean(text: str) -> str:
    """`text` without credentials and without control characters, which could drive the reader's terminal."""
    return redact(text).translate(_CONTROL)


def redact_tree(value: Any, name: str = "") -> Any:
    """A JSON value with credentials masked in every string; structure and other types stay."""
    if isinstance(value, dict):
        return {key: redact_tree(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_tree(inner, name) for inner in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if not isinstance(value, str):
        return value
    return MASK if is_secret_name(name) and value else redact(value)


def show_error(error: ClipError, *, as_json: bool) -> None:
    """Print an error to standard error: one paragraph, or one JSON object."""
    problems = getattr(error, "problems", None)
    if as_json:
        print(json.dumps({"error": _error_object(error, problems)}), file=sys.stderr)
    elif problems is not None:
        # The lines are made from our own words and from values that were redacted one by one.
        print(mask_credentials("\n".join(map(str, problems))).translate(_CONTROL), file=sys.stderr)
        note(f"error: {_count(len(problems))}. {error.hint}".rstrip())
    else:
        separator = "" if error.problem.endswith("\n") or not error.hint else " "
        note(f"error: {error.problem}{separator}{error.hint}")


def _count(problems: int) -> str:
    return "1 problem" if problems == 1 else f"{problems} problems"


def _error_object(error: ClipError, problems: Any) -> dict[str, Any]:
    if problems is None:
        return {"code": int(error.code), "problem": clean(error.problem), "hint": clean(error.hint)}
    listed = [
        {
            "file": problem.position.source,
            "line": problem.position.line,
            "column": problem.position.column,
            "field": problem.field,
            "problem": mask_credentials(problem.text),
        }
        for problem in problems
    ]
    return {"code": int(error.code), "problem": _count(len(listed)), "hint": error.hint, "problems": listed}


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns in the manner of kubectl; the last column is not padded."""
    widths = [max(len(str(row[i])) for row in [headers, *rows]) for i in range(len(headers))]
    lines = []
    for row in [headers, *rows]:
        cells = [str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("   ".join(cells).rstrip())
    return "\n".join(lines)


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units: `45s`, `3m20s`, `2h5m`, `4d3h`."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{unit}{f'{rest}{smaller}' if rest else ''}"
    return f"{whole}s"


def age(since: float | None, now: float | None = None) -> str:
    """Time since a Unix timestamp."""
    return "-" if since is None else duration((time.time() if now is None else now) - since)


def size(count: float) -> str:
    """A number of bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"

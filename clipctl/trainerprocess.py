"""Work that needs torch, done by a process of the trainer: the command line itself never imports torch."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from clipctl.contract.errors import InternalError, MissingError, error_from_code


def run_trainer(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run `python -m module` and return what it answers.

    Args:
        module: one that answers through `clip_trainer.jsonanswer`.
        arguments: of the process.

    Raises:
        MissingError: torch is not installed.
        ClipError: what the process reports.
        InternalError: it died without an answer.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingError(
            f"this needs torch, which {sys.executable} does not have.",
            hint="Install it with: pip install 'clipctl[trainer]'",
        )
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    answer = _last_object(done.stdout)
    if "result" in answer:
        return dict(answer["result"])
    if "error" in answer:
        told = answer["error"]
        raise error_from_code(str(told["problem"]), str(told["hint"]), int(told["code"]))
    last = [*done.stderr.strip().splitlines(), "it said nothing"][-1 if not done.stderr.strip() else -2]
    raise InternalError(f"{module} ended with status {done.returncode}: {last[:300]}.", hint="Please report this.")


def _last_object(output: str) -> dict[str, Any]:
    """The last line of the output if it is a JSON object, else an empty one."""
    try:
        value = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return value if isinstance(value, dict) else {}

"""Work that needs torch, done by a process of the trainer: the command line itself never imports torch."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipctl.contract.errors import InternalError, MissingError, error_from_code

if TYPE_CHECKING:
    from clip_trainer.data.progress import Progress


def run_trainer(module: str, arguments: Sequence[str], progress: Progress | None = None) -> dict[str, Any]:
    """Run `python -m module` and return what it answers.

    Args:
        module: one that answers through `clip_trainer.jsonanswer`.
        arguments: of the process.
        progress: told what the process tells.

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
    status, answer, said = _run([sys.executable, "-m", module, *arguments], progress)
    if "result" in answer:
        return dict(answer["result"])
    if "error" in answer:
        told = answer["error"]
        raise error_from_code(str(told["problem"]), str(told["hint"]), int(told["code"]))
    raise InternalError(f"{module} ended with status {status}: {said[:300]}.", hint="Please report this.")


def _run(command: Sequence[str], progress: Progress | None) -> tuple[int, dict[str, Any], str]:
    """Exit status, the last line of output as an object, and the last line of errors."""
    from clip_trainer.data.progress import ProgressEvent

    last: dict[str, Any] = {}
    # Errors go to a file: nobody would read a second pipe while the first one is being read.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace"
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last = _object(line)
                if progress is not None and "progress" in last:
                    progress(ProgressEvent(**last["progress"]))
            status = process.wait()
        finally:
            process.kill()  # for an exception; does nothing to a process that has ended
            process.wait()
            process.stdout.close()
        errors.seek(0)
        said = errors.read().strip().splitlines()
    return status, last, said[-1] if said else "it said nothing"


def _object(line: str) -> dict[str, Any]:
    """A line of output if it is a JSON object, else an empty one."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

"""How a process of the trainer answers the command line that started it: JSON objects, one a line.

Any number of lines `{"progress": ...}` may come first; the last one is `{"result": ...}` or `{"error": ...}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clipctl.contract.errors import ClipError, ExitCode

if TYPE_CHECKING:
    from clip_trainer.data.progress import ProgressEvent


def answer(work: Callable[[list[str]], dict[str, Any]], arguments: list[str]) -> int:
    """Do the work and print `{"result": …}`, or `{"error": {"problem", "hint", "code"}}`; the exit code.

    Args:
        work: what to do with the arguments.
        arguments: of the process.
    """
    try:
        result = work(arguments)
    except ClipError as error:
        told = {"problem": error.problem, "hint": error.hint, "code": int(error.code)}
        print(json.dumps({"error": told}))
        return int(error.code)
    except MemoryError:
        print(json.dumps({"error": {"problem": "out of memory.", "hint": "", "code": int(ExitCode.CANNOT_CREATE)}}))
        return int(ExitCode.CANNOT_CREATE)
    print(json.dumps({"result": result}))
    sys.stdout.flush()
    return int(ExitCode.OK)


def tell(event: ProgressEvent) -> None:
    """Say how far the work is; a `clip_trainer.data.progress.Progress`."""
    print(json.dumps({"progress": asdict(event)}), flush=True)

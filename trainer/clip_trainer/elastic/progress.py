"""How the agent learns that a run gets on: the newest step that is safe in storage, in a small local file.

Restarting in place is limited, or a worker that always fails would restart for ever. Time is no measure of progress
(a run may fail after an hour, every hour); a newer committed checkpoint is.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ENV_PROGRESS_FILE = "CLIPCTL_PROGRESS_FILE"


def report_progress(step: int) -> None:
    """Say that everything up to optimiser step `step` is safely stored.

    Call it on every rank when it has resumed (with the step it resumed from), and on any rank that learns of a
    committed checkpoint. It refills the agent's budget of restarts. Outside an agent it does nothing, and it never
    fails: losing the report costs part of a budget, not the run.
    """
    name = os.environ.get(ENV_PROGRESS_FILE)
    if not name:
        return
    path = Path(name)
    if step <= read_progress(path):
        return
    staged = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        staged.write_text(str(step))
        os.replace(staged, path)


def read_progress(path: Path) -> int:
    """The newest step reported to `path`; -1 if there is none yet."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return -1

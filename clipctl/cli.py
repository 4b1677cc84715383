"""Entry point of `clipctl`: the list of commands, and what becomes of errors.

The help of the program itself is static text, so that it costs no import of anything; every command's module is
imported only when that command runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

COMMANDS: dict[str, str] = {
    "submit": "Start or resume the run that a run.yaml describes.",
    "render": "Print the Kubernetes objects of a run without submitting it.",
    "list": "List runs, local ones and those in the namespace.",
    "status": "Show state, progress, checkpoints and workers of a run.",
    "logs": "Print the logs of a run's workers.",
    "stop": "Stop a run after a checkpoint; submitting it again resumes it.",
    "delete": "Remove a run; its checkpoints stay.",
    "checkpoints": "List, inspect, verify, compare, export, prune checkpoints.",
    "data": "Pack, index and verify data sets.",
    "eval": "Measure a model: zero-shot accuracy, retrieval, loss.",
    "convert": "Write the run.yaml for an OpenCLIP training command.",
    "models": "List, describe, fetch and bundle models and weights.",
    "doctor": "Check this machine, the cluster and the storage.",
    "schema": "Print the JSON Schema of run.yaml.",
    "version": "Print versions.",
}
"""Name and one-line help of every command; its module is `clipctl.commands.<name>`."""

_HEAD = """Usage: clipctl [OPTIONS] COMMAND [ARGS]...

  Train CLIP on Kubernetes or on this machine from one run.yaml.

Options:
  --install-completion  Install completion for the current shell.
  --show-completion     Print the completion script of the current shell.
  -h, --help            Show this message and exit.

Commands:
"""
_TAIL = """
Exit codes: 0 ok, 64 usage or run.yaml, 65 corrupt data, 66 missing input, 69 service unavailable, 70 bug in clipctl,
73 cannot create output, 75 try again, 77 permission, 78 cluster configuration, 79 hung, 130 interrupted.
"""


def usage() -> str:
    """The help of the program itself."""
    width = max(map(len, COMMANDS))
    return _HEAD + "".join(f"  {name:<{width}}  {text}\n" for name, text in COMMANDS.items()) + _TAIL


def main(argv: Sequence[str] | None = None) -> int:
    """Run `clipctl` with `argv` (default: the process's arguments) and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in ([], ["-h"], ["--help"]) and "_CLIPCTL_COMPLETE" not in os.environ:
        sys.stdout.write(usage())
        return 0
    from clipctl.errorpolicy import run_guarded

    return run_guarded(arguments)


def root_command() -> Any:
    """The whole command tree as a click-like group, for documentation and tests."""
    from clipctl.app import root_command as build

    return build()

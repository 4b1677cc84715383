"""What becomes of errors: one paragraph on standard error, a documented exit code, never a traceback.

`CLIPCTL_DEBUG=1` adds the traceback of unexpected exceptions.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from clipctl.contract.errors import ClipError, ExitCode, InternalError, SpecError

INTERRUPTED = 130
_BROKEN_PIPE = 141
_MEMORY_HINT = "Set CLIPCTL_DEBUG=1 to see the traceback, and report it with the output of `clipctl version`."


def run_guarded(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit status; prints whatever went wrong."""
    as_json = "--json" in arguments
    try:
        from clipctl.app import invoke

        return invoke(list(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`clipctl logs | head`); keep the interpreter from complaining at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        translated = translate(error)
        if translated is None:
            return INTERRUPTED
        if os.environ.get("CLIPCTL_DEBUG") == "1" and translated.code == ExitCode.INTERNAL:
            _show_traceback(error)
        from clipctl.output import show_error

        show_error(translated, as_json=as_json)
        return int(translated.code)


def translate(error: Exception) -> ClipError | None:
    """`error` as a `ClipError`; None if the user interrupted the command."""
    if isinstance(error, ClipError):
        return error
    if type(error).__name__ == "Abort":
        return None
    message = getattr(error, "format_message", None)
    if message is not None:
        # A usage error of the command-line parser. Its class lives in `click` or inside typer, depending on typer's
        # version, so it is known by what it can do.
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "clipctl"
        return SpecError(_sentence(str(message())), hint=f"See `{command} -h`.")
    return InternalError(f"unexpected {type(error).__name__}: {_short(error)}.", hint=_MEMORY_HINT)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 300 else text[:297] + "..."


def _show_traceback(error: Exception) -> None:
    import traceback

    from clipctl.output import note

    note("".join(traceback.format_exception(error)))

"""Commands and waiting, with errors that say what ran and what it printed."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipctl.contract.errors import ClusterConfigError, UnavailableError

Argument = str | Path


def say(message: str) -> None:
    """Tell the person at the terminal what is being done; stdout stays free for results."""
    print(f"cluster: {message}", file=sys.stderr, flush=True)


def run(
    argv: Sequence[Argument],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 1800,
) -> str:
    """Run a command to its end and return its stdout.

    Raises:
        ClusterConfigError: the program does not exist.
        UnavailableError: it failed or took longer than `timeout` seconds; the text ends with its last output.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise ClusterConfigError(
            f"{words[0]} is not installed.", hint="Run scripts/prerequisites.sh as root."
        ) from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{' '.join(words)[:200]} took longer than {timeout:.0f} s.") from None
    if done.returncode != 0:
        raise UnavailableError(f"{' '.join(words)[:400]} exited {done.returncode}: {tail(done.stderr or done.stdout)}")
    return done.stdout


def succeeds(argv: Sequence[Argument], *, env: Mapping[str, str] | None = None, timeout: float = 60) -> bool:
    """Whether a command exits 0; its output is dropped."""
    try:
        run(argv, env=env, timeout=timeout)
    except UnavailableError:
        return False
    return True


def tail(text: str, lines: int = 15) -> str:
    """The last lines of some output, for an error."""
    return "\n".join(text.strip().splitlines()[-lines:])


def wait_until(
    check: Callable[[], bool],
    what: str,
    *,
    seconds: float,
    watch: Callable[[], None] = lambda: None,
    interval: float = 0.2,
) -> None:
    """Poll `check` until it holds.

    Args:
        check: the condition.
        what: the condition in words, for the error.
        seconds: how long to wait.
        watch: called at each turn; raises if waiting longer is pointless (a process died).
        interval: seconds between two looks.

    Raises:
        UnavailableError: `check` did not hold within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not check():
        watch()
        if time.monotonic() >= deadline:
            raise UnavailableError(f"{what} did not happen within {seconds:.0f} s.")
        time.sleep(interval)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, so that two shells cannot build or start the same thing at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

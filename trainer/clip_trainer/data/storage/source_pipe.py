"""Shards that commands print (`pipe:aws s3 cp s3://bucket/{000..127}.tar -`): only where they are allowed.

A command runs once; its whole output is kept in a file and read from there like a local shard. No shell is involved.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import xxhash

from clip_trainer.data.storage.location import PIPE_PREFIX, expand_braces, parse_location
from clip_trainer.data.storage.source import ObjectInfo, SourceCounters, checked_name
from clip_trainer.data.storage.source_local import LocalSource
from clipctl.contract.errors import CannotCreateError, MissingError, SpecError, UnavailableError

_LAST_LINE = 4096  # bytes of what a command complains about


class PipeSource:
    """The outputs of the commands that a pattern stands for; implements `source.Source`.

    Args:
        base: `pipe:` and a command, possibly with braces. Its shards are `shard-000000.tar` and so on.
        directory: where outputs are kept; by default `$XDG_CACHE_HOME/clipctl/pipe`. It grows without bounds.
    """

    remote = False  # once an output is there, it is a local file

    def __init__(self, base: str, *, directory: Path | None = None) -> None:
        self.base = base
        names = parse_location(base).names or ()
        self._commands = dict(zip(names, expand_braces(base.removeprefix(PIPE_PREFIX)), strict=True))
        self._directory = directory or _cache_directory(os.environ)
        self._outputs = LocalSource(str(self._directory))
        self.counters: SourceCounters = self._outputs.counters

    def info(self, name: str) -> ObjectInfo:
        """Size of an output; runs the command if it has not run yet."""
        return ObjectInfo(name, self._outputs.info(self._output(name)).bytes, None)

    def info_many(self, names: Iterable[str]) -> dict[str, ObjectInfo]:
        """`info` of those that the pattern stands for."""
        return {name: self.info(name) for name in names if name in self._commands}

    def list_shards(self) -> tuple[str, ...]:
        """All that the pattern stands for."""
        return tuple(self._commands)

    def read(self, name: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """A range of an output. There are no etags: outputs are kept under the command that made them."""
        return self._outputs.read(self._output(name), offset, length)

    def load(self, name: str) -> bytes:
        """A whole output."""
        return self._outputs.load(self._output(name))

    def save(self, name: str, data: bytes) -> None:
        """Commands only print. Raises CannotCreateError."""
        raise CannotCreateError(f"{name} cannot be written to the output of a command.")

    def _output(self, name: str) -> str:
        """The file with the output of a command, which is run unless it is there. Processes wait for each other."""
        command = self._commands.get(checked_name(name))
        if command is None:
            raise MissingError(f"{self.base} has no {name}.", hint="Check the braces of the command.")
        kept = f"{xxhash.xxh3_128_hexdigest(command.encode())}.tar"
        target = self._directory / kept
        if target.exists():
            return kept
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with (self._directory / f"{kept}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not target.exists():
                    spool(command, target)
        except OSError as error:
            hint = "Free some space, or set XDG_CACHE_HOME to a larger disk."
            raise CannotCreateError(f"{target} cannot be written: {error.strerror}.", hint=hint) from error
        return kept


def spool(command: str, target: Path) -> None:
    """Run a command without a shell, and keep what it prints if it ends well.

    Raises:
        SpecError: it cannot be split into words, or there is no such program.
        UnavailableError: it fails; says the last line of what it complained about.
        OSError: the output cannot be written.
    """
    words = _words(command)
    descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as output, tempfile.TemporaryFile() as complaints:
            try:
                done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=output, stderr=complaints, check=False)
            except (FileNotFoundError, PermissionError) as error:
                hint = "Install the program, or give its path."
                raise SpecError(f"pipe: cannot run {words[0]} ({error.strerror}).", hint=hint) from error
            if done.returncode:
                raise _failure(command, done.returncode, complaints.seek(0, os.SEEK_END), complaints.fileno())
        os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SpecError(f"pipe: the command cannot be split into words ({error}).", hint="Check its quotes.") from error
    if not words:
        raise SpecError("pipe: there is no command.", hint="Write it as pipe:program arguments.")
    return words


def _failure(command: str, status: int, size: int, complaints: int) -> UnavailableError:
    tail = os.pread(complaints, _LAST_LINE, max(0, size - _LAST_LINE)).decode(errors="replace")
    lines = [line for line in tail.splitlines() if line.strip()]
    said = f": {lines[-1].strip()[:200]}" if lines else ""
    return UnavailableError(
        f"pipe: {shlex.split(command)[0]} failed with status {status}{said}.", hint="Run the command by hand."
    )


def _cache_directory(environ: Mapping[str, str]) -> Path:
    home = environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(home).expanduser() / "clipctl" / "pipe"

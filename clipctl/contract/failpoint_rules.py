"""What an armed failpoint does, and how that is written.

A rule is `NAME=ACTION[@N][%P[#SEED]][!once]`; rules are separated by `;`. Actions:

    note             nothing but say that it was reached
    kill             SIGKILL to this process
    stop             SIGSTOP to this process
    exit:CODE        end at once with this status
    error:KIND       raise the ClipError of that kind (`unavailable`, `corrupt`, ...)
    os:NAME          raise the OSError of that name (`ENOSPC`, `EIO`, ...)
    raise            raise a RuntimeError
    pause:SECONDS    wait

`@N` acts at the N-th time only, `%P` each time with that probability (seeded), `!once` once for all processes that
share CLIPCTL_FAILPOINTS_DIR, however often they are started.
"""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clipctl.contract import errors
from clipctl.contract.errors import ClipError, SpecError
from clipctl.contract.failpoint_names import NAMES

_RULE = re.compile(
    r"(?P<name>[a-z0-9_.]+)=(?P<action>[a-z]+)(?::(?P<argument>[A-Za-z0-9_.]+))?"
    r"(?:@(?P<nth>[0-9]+))?(?:%(?P<probability>[0-9.]+)(?:#(?P<seed>[0-9]+))?)?(?P<once>!once)?"
)
_HINT = "A rule is NAME=ACTION[:ARGUMENT][@N][%P[#SEED]][!once]; rules are separated by `;`."
_KINDS: dict[str, type[ClipError]] = {
    "spec": errors.SpecError,
    "corrupt": errors.CorruptError,
    "missing": errors.MissingError,
    "unavailable": errors.UnavailableError,
    "internal": errors.InternalError,
    "cannot_create": errors.CannotCreateError,
    "try_again": errors.TryAgainError,
    "permission": errors.PermissionDeniedError,
    "cluster_config": errors.ClusterConfigError,
}


@dataclass
class Rule:
    """What happens at one failpoint, and when."""

    name: str
    action: str
    act: Callable[[], None]
    nth: int | None
    probability: float
    chance: random.Random
    once: bool
    hits: int = field(default=0)

    def applies(self) -> bool:
        """Whether it acts this time; counts the hit."""
        self.hits += 1
        if self.nth is not None and self.hits != self.nth:
            return False
        return self.probability >= 1 or self.chance.random() < self.probability


class Rules:
    """All rules of a process.

    Attributes:
        fired: names of the failpoints that acted, in order.
    """

    def __init__(self, rules: list[Rule], directory: Path | None) -> None:
        self.fired: list[str] = []
        self._rules = {rule.name: rule for rule in rules}
        self._directory = directory
        self._lock = threading.Lock()

    @classmethod
    def parse(cls, text: str, directory: str | None = None) -> Rules:
        """Read rules. Raises `SpecError`."""
        rules = [_parsed(part) for part in text.split(";") if part]
        if directory is None and any(rule.once for rule in rules):
            raise SpecError("`!once` needs CLIPCTL_FAILPOINTS_DIR.", hint="Set it to an existing directory.")
        return cls(rules, Path(directory) if directory is not None else None)

    def reached(self, name: str) -> None:
        """The program is at this failpoint."""
        with self._lock:
            rule = self._rules.get(name)
            if rule is None or not rule.applies() or (rule.once and not self._first(name)):
                return
            self.fired.append(name)
            self._note(rule)
        rule.act()

    def _first(self, name: str) -> bool:
        assert self._directory is not None
        try:
            (self._directory / f"once-{name}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _note(self, rule: Rule) -> None:
        if self._directory is not None:
            with (self._directory / "fired").open("a") as file:
                file.write(f"{rule.name} {rule.action} {os.getpid()} {time.time():.3f}\n")


def _parsed(text: str) -> Rule:
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise SpecError(f"the failpoint rule {text.strip()!r} is not well-formed.", hint=_HINT)
    name = match["name"]
    if name not in NAMES:
        raise SpecError(f"there is no failpoint {name!r}.", hint="See clipctl/contract/failpoint_names.py.")
    nth = int(match["nth"]) if match["nth"] else None
    try:
        act = _action(name, match["action"], match["argument"])
        probability = float(match["probability"] or 1)
    except ValueError as error:
        raise SpecError(f"the failpoint rule {text.strip()!r} is not well-formed: {error}.", hint=_HINT) from error
    chance = random.Random(int(match["seed"] or 0))  # noqa: S311  # chance, not a secret
    return Rule(name, match["action"], act, nth, probability, chance, match["once"] is not None)


def _action(name: str, action: str, argument: str | None) -> Callable[[], None]:
    """What to do. Raises ValueError if it makes no sense."""
    problem = f"the failpoint {name} says so."
    if action in ("note", "kill", "stop", "raise"):
        if argument is not None:
            raise ValueError(f"`{action}` takes no argument")
        simple: dict[str, Callable[[], None]] = {
            "note": lambda: None,
            "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
            "raise": lambda: _raise(RuntimeError(problem)),
        }
        return simple[action]
    if action == "exit":
        code = int(argument or "")
        return lambda: os._exit(code)
    if action == "pause":
        seconds = float(argument or "")
        return lambda: time.sleep(seconds)
    if action == "error" and argument in _KINDS:
        kind = _KINDS[argument]
        return lambda: _raise(kind(problem))
    number = getattr(errno, argument or "", None)
    if action == "os" and isinstance(number, int):
        return lambda: _raise(OSError(number, os.strerror(number), name))
    raise ValueError(f"`{action}:{argument}` is unknown")


def _raise(error: Exception) -> None:
    raise error

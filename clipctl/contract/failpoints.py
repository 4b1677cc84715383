"""Named places at which a test may break the program: `failpoint("checkpoint.before_commit")`.

Without the variable CLIPCTL_FAILPOINTS a failpoint is one comparison. With it, it does what the variable says:

    CLIPCTL_FAILPOINTS="checkpoint.before_commit=kill@3;store.write=error:unavailable%0.1#7;train.before_update=pause:2"

`failpoint_names` lists the names, `failpoint_rules` the actions. What fired is written to the file `fired` in
the directory CLIPCTL_FAILPOINTS_DIR, if that is set, before anything happens.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipctl.contract.failpoint_rules import Rules

ENV = "CLIPCTL_FAILPOINTS"
ENV_DIRECTORY = "CLIPCTL_FAILPOINTS_DIR"

_armed = ENV in os.environ
_rules: Rules | None = None


def failpoint(name: str) -> None:
    """Do what the rule for `name` says; nothing if there is none.

    Raises:
        SpecError: CLIPCTL_FAILPOINTS is not well-formed, or names a failpoint that does not exist.
        ClipError, OSError, RuntimeError: as the rule says.
    """
    if _armed:
        _reached(name)


def _reached(name: str) -> None:
    global _rules
    if _rules is None:  # read here, not at import: a mistake in the variable is then reported like any other
        from clipctl.contract.failpoint_rules import Rules

        _rules = Rules.parse(os.environ.get(ENV, ""), os.environ.get(ENV_DIRECTORY))
    _rules.reached(name)


@contextlib.contextmanager
def armed(text: str, directory: str | None = None) -> Iterator[list[str]]:
    """For tests in one process: inside, these rules hold; yields the names that fired so far, in order.

    Raises:
        SpecError: `text` is not well-formed, or names a failpoint that does not exist.
    """
    global _armed, _rules
    from clipctl.contract.failpoint_rules import Rules

    before = _armed, _rules
    rules = Rules.parse(text, directory)
    _armed, _rules = True, rules
    try:
        yield rules.fired
    finally:
        _armed, _rules = before

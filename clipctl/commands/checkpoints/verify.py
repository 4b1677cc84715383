"""`clipctl checkpoints verify`: is every byte of them what was saved?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from clipctl.commands.checkpoints.target import Checkpoint, RunWhich, open_run
from clipctl.commands.options import Context, Json, Namespace

if TYPE_CHECKING:
    from clipctl.commands.checkpoints.target import Opened


def verify(
    run: RunWhich,
    checkpoint: Checkpoint = None,
    namespace: Namespace = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Read every byte of one or of all checkpoints and compare digests. Exit code 65 if any is damaged."""
    from clipctl.contract.errors import ExitCode
    from clipctl.output import say, say_json

    found = []
    for identity, problem in _verified(open_run(run, namespace, context, checkpoint)):
        found.append({"id": identity, "ok": problem is None, "problem": problem})
        if not json:
            say(f"OK       {identity}" if problem is None else f"REJECTED {identity}: {problem}")
    if json:
        say_json(found)
    elif not found:
        say("no checkpoints")
    if any(not item["ok"] for item in found):
        raise typer.Exit(int(ExitCode.CORRUPT))


def _verified(opened: Opened) -> Iterator[tuple[str, str | None]]:
    from clipctl.contract.checkpoint_selector import select
    from clipctl.contract.commits import iterate_verified
    from clipctl.contract.commits import verify as read
    from clipctl.contract.errors import ClipError, CorruptError

    if opened.which is None:
        for identity, outcome in iterate_verified(opened.store):
            yield str(identity), outcome.problem if isinstance(outcome, ClipError) else None
        return
    chosen = select(opened.store, opened.which)
    try:
        read(opened.store, chosen)
    except CorruptError as error:
        yield str(chosen), error.problem
    else:
        yield str(chosen), None

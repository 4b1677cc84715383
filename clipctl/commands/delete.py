"""`clipctl delete`."""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.options import Context, Json, Local, Name, Namespace, command_app

app = command_app()


@app.command()
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    local: Local = False,
    namespace: Namespace = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Stop a run and remove it. What it stored (checkpoints, results) stays."""
    from clipctl.backends.choose import backend_of
    from clipctl.contract.names import TERMINAL_STATES
    from clipctl.output import say, say_json

    backend = backend_of(name, local=local, namespace=namespace, context=context)
    status = backend.status(name)
    if not yes and status.state not in TERMINAL_STATES:
        _confirm(f"Run {name} is {status.state} in {status.location}. Delete it?")
    backend.delete(name)
    if json:
        say_json({"name": name, "backend": backend.name, "deleted": True, "storage": status.run_root})
    else:
        say(f"run {name} deleted; its storage stays: {status.run_root or 'unknown'}")


def _confirm(question: str) -> None:
    import sys

    from clipctl.contract.errors import SpecError

    if not sys.stdin.isatty():
        raise SpecError("the run has not ended.", hint="Give --yes to delete it all the same.")
    typer.confirm(question, abort=True)

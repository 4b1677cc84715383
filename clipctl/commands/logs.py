"""`clipctl logs`."""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.options import Context, Json, Local, Name, Namespace, command_app

app = command_app()


@app.command()
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the run ends.")] = False,
    rank: Annotated[int | None, typer.Option("--rank", min=0, help="Only the lines of this rank.")] = None,
    local: Local = False,
    namespace: Namespace = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Print what the workers of a run printed; following survives restarts and replaced pods."""
    import sys

    from clipctl.backends.choose import backend_of
    from clipctl.output import say, say_json

    backend = backend_of(name, local=local, namespace=namespace, context=context)
    for line in backend.logs(name, follow, rank):
        if json:
            say_json({"line": line}, indent=None)
        else:
            say(line)
        if follow:
            sys.stdout.flush()

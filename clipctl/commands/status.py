"""`clipctl status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.commands.options import Context, Json, Local, Name, Namespace, command_app

if TYPE_CHECKING:
    from clipctl.backends.base import Backend

app = command_app()
_WATCH_SECONDS = 2.0


@app.command()
def status(
    name: Name,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again until the run ends.")] = False,
    local: Local = False,
    namespace: Namespace = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Show state, progress, checkpoints and workers of a run, and why it is waiting if it is."""
    import time

    from clipctl.backends.choose import backend_of
    from clipctl.contract.names import STATE_STOPPED, TERMINAL_STATES

    backend = backend_of(name, local=local, namespace=namespace, context=context)
    while True:
        state = _show(backend, name, json, watch)
        if not watch or state in TERMINAL_STATES or state == STATE_STOPPED:
            return
        time.sleep(_WATCH_SECONDS)


def _show(backend: Backend, name: str, json: bool, watch: bool) -> str:
    import sys

    from clipctl.output import say, say_json
    from clipctl.runstorage import look
    from clipctl.statusview import as_json, as_text

    known = backend.status(name)
    view = look(known.run_root, known.storage_env)
    if json:
        say_json(as_json(known, view), indent=None if watch else 2)
    else:
        if watch and sys.stdout.isatty():
            sys.stdout.write("\033[H\033[2J")  # home and clear, so that the table stays in place
        say(as_text(known, view))
        if watch and not sys.stdout.isatty():
            say("")
    sys.stdout.flush()
    return known.state

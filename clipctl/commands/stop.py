"""`clipctl stop`."""

from __future__ import annotations

from clipctl.commands.options import Context, Json, Local, Name, Namespace, command_app

app = command_app()


@app.command()
def stop(
    name: Name, local: Local = False, namespace: Namespace = None, context: Context = None, json: Json = False
) -> None:
    """Let a run write a checkpoint and stop it. Submitting its file again resumes it."""
    from clipctl.backends.choose import backend_of
    from clipctl.contract.names import TERMINAL_STATES
    from clipctl.output import say, say_json

    backend = backend_of(name, local=local, namespace=namespace, context=context)
    backend.stop(name)
    state = backend.status(name).state
    if json:
        say_json({"name": name, "backend": backend.name, "state": state})
    elif state in TERMINAL_STATES:
        say(f"run {name} had ended before: {state}")
    else:
        say(f"run {name} is stopped; submit its file again to go on from the newest checkpoint")

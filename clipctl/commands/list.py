"""`clipctl list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipctl.commands.options import Context, Json, Local, Namespace, command_app

if TYPE_CHECKING:
    from clipctl.backends.base import RunSummary

app = command_app()


@app.command("list")
def list_runs(local: Local = False, namespace: Namespace = None, context: Context = None, json: Json = False) -> None:
    """List all runs, newest first: those on this machine and those in the namespace."""
    from dataclasses import asdict

    from clipctl.output import age, say, say_json, table

    runs = _all(local, namespace, context)
    runs.sort(key=lambda run: (-(run.created_at or 0), run.name))
    if json:
        say_json([asdict(run) for run in runs])
        return
    rows = [(r.name, r.backend, r.state, str(r.attempt), age(r.created_at), r.location) for r in runs]
    say(table(("NAME", "BACKEND", "STATE", "ATTEMPT", "AGE", "LOCATION"), rows) if rows else "no runs")


def _all(local: bool, namespace: str | None, context: str | None) -> list[RunSummary]:
    from clipctl.backends.choose import kubernetes_backend, local_backend
    from clipctl.contract.errors import ClipError
    from clipctl.output import note

    runs = list(local_backend().list()) if namespace is None and context is None else []
    if local:
        return runs
    try:
        return runs + kubernetes_backend(namespace, context).list()
    except ClipError as error:
        if namespace is not None or context is not None:
            raise
        # Without a cluster there still are the local runs.
        note(f"only local runs: {error}")
        return runs

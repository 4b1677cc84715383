"""`clipctl submit`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipctl.commands.options import Context, File, Json, Namespace, Set, command_app

if TYPE_CHECKING:
    from clipctl.backends.base import Backend, Plan, RunStatus, SubmitResult

app = command_app()


@app.command()
def submit(
    file: File,
    local: Annotated[bool, typer.Option("--local", help="Run on this machine instead of a cluster.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be submitted; on a cluster, let the API server check it."),
    ] = False,
    wait: Annotated[
        bool | None,
        typer.Option("--wait/--detach", help="Show progress until the run ends. Default: only with --local."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a run of this name that has another spec; its checkpoints stay.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Start the run that FILE describes, or resume it.

    Submitting the same file again is safe: a running run is left alone, a stopped or failed one goes on from its
    newest verified checkpoint. Ctrl-C while waiting for a local run stops it after a checkpoint.
    """
    from clipctl.backends.base import Plan, SubmitOptions
    from clipctl.backends.choose import kubernetes_backend, local_backend
    from clipctl.output import say, say_json
    from clipctl.specfile import load_spec

    plan = Plan(load_spec(file, set_ or ()), file)
    if dry_run:
        _dry_run(plan, local, namespace, context, json)
        return
    backend = local_backend() if local else kubernetes_backend(namespace, context)
    result = backend.submit(plan, SubmitOptions(replace=replace))
    waits = local if wait is None else wait
    if json and not waits:
        say_json(asdict(result))
    elif not json:
        say(_sentence(result))
    if waits:
        _wait(backend, result, file, json)


def _dry_run(plan: Plan, local: bool, namespace: str | None, context: str | None, json: bool) -> None:
    from clipctl.manifests import to_yaml
    from clipctl.output import say_manifest, say_manifest_json

    objects: list[dict[str, Any]]
    if local:
        objects = [plan.config()]
    else:
        from clipctl.apply import connect
        from clipctl.backends.kubernetes import KubernetesBackend

        objects = KubernetesBackend(connect(namespace, context)).check(plan)
    if json:
        say_manifest_json(objects)
    else:
        say_manifest(to_yaml(objects))


def _sentence(result: SubmitResult) -> str:
    where = f" --namespace {result.location.partition('/')[0]}" if result.backend == "kubernetes" else ""
    follow = f"follow it with: clipctl status {result.name}{where} --watch"
    if result.action == "unchanged":
        return f"run {result.name} is unchanged ({result.location}); {follow}"
    return f"run {result.name} {result.action} ({result.location}); {follow}"


def _wait(backend: Backend, result: SubmitResult, file: str, json: bool) -> None:
    from clipctl.watch import exit_code, follow, make_display

    try:
        status = follow(backend, result.name, make_display())
    except KeyboardInterrupt:
        _interrupted(backend, result, file)
        raise typer.Exit(130) from None
    _report(status, asdict(result), json)
    code = exit_code(status)
    if code:
        from clipctl.output import note

        note(f"error: {status.message or status.reason or 'the run did not succeed'} See: clipctl logs {result.name}")
    raise typer.Exit(code)


def _interrupted(backend: Backend, result: SubmitResult, file: str) -> None:
    from clipctl.output import note

    if result.backend == "kubernetes":
        note(f"no longer watching; the run goes on. See: clipctl status {result.name}")
        return
    note(f"stopping {result.name} after a checkpoint; press Ctrl-C again to leave at once")
    backend.stop(result.name)
    note(f"stopped; to go on from the checkpoint: clipctl submit {file} --local")


def _report(status: RunStatus, result: dict[str, Any], json: bool) -> None:
    from clipctl.output import say, say_json
    from clipctl.runstorage import look
    from clipctl.statusview import as_json, results_rows
    from clipctl.watch import state_line

    view = look(status.run_root, status.storage_env)
    if json:
        say_json({**result, "status": as_json(status, view)})
        return
    say(f"run {status.name}: {state_line(status)}")
    for name, value in results_rows(view.results):
        say(f"  {name + ':':<12}{value}")

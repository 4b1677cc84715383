"""`clipctl doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.commands.options import Context, Json, Namespace, command_app

if TYPE_CHECKING:
    from clipctl.diagnosis import Check

app = command_app()


@app.command()
def doctor(
    local: Annotated[bool, typer.Option("--local", help="Check this machine only, no cluster.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    storage: Annotated[str | None, typer.Option(metavar="URL", help="Also check this storage, as s3://bucket.")] = None,
    queue: Annotated[str | None, typer.Option(help="Also check that this Kueue LocalQueue exists.")] = None,
    json: Json = False,
) -> None:
    """Check this machine, the cluster and the storage, and say what to do about what fails.

    Exit code 77 if only permissions or credentials are missing, 78 for anything else that keeps runs from working.
    """
    from dataclasses import asdict

    from clipctl.diagnosis import exit_code
    from clipctl.output import say, say_json, table

    checks = _run_checks(local, namespace, context, storage, queue)
    if json:
        say_json([asdict(check) for check in checks])
    else:
        rows = [(check.result.upper(), check.name, check.detail) for check in checks]
        say(table(("RESULT", "CHECK", "DETAIL"), rows))
        for check in checks:
            if check.remedy:
                say(f"{check.name}: {check.remedy}")
    raise typer.Exit(int(exit_code(checks)))


def _run_checks(
    local: bool, namespace: str | None, context: str | None, storage: str | None, queue: str | None
) -> list[Check]:
    from clipctl.contract.errors import ClipError
    from clipctl.diagnosis import check_cluster, check_machine, check_storage, failure

    checks = list(check_machine())
    if not local:
        from clipctl.apply import connect

        try:
            checks += check_cluster(connect(namespace, context), queue)
        except ClipError as error:
            checks.append(failure("kubeconfig", error))
    if storage is not None:
        checks.append(check_storage(storage))
    return checks

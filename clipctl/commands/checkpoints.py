"""`clipctl checkpoints`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipctl.commands.options import Context, Json, Namespace, command_app

if TYPE_CHECKING:
    from clipctl.contract.layout import CheckpointId
    from clipctl.contract.store import ObjectStore

app = command_app("List, verify and export the checkpoints of a run.")
RunTarget = Annotated[
    str, typer.Argument(metavar="RUN", help="Path of a run.yaml, name of a run, or URL or directory of a run's root.")
]


@app.command("ls")
def ls(run: RunTarget, namespace: Namespace = None, context: Context = None, json: Json = False) -> None:
    """List the committed checkpoints, newest first. Reads the commit records only."""
    from dataclasses import asdict

    from clipctl.output import age, say, say_json, size, table
    from clipctl.runstorage import CheckpointSummary, summaries

    rows: list[tuple[str, ...]] = []
    found: list[dict[str, Any]] = []
    for item in summaries(_open(run, namespace, context)):
        if isinstance(item, CheckpointSummary):
            found.append(asdict(item))
            rows.append(
                (
                    item.id,
                    str(item.step),
                    str(item.incarnation),
                    age(item.created_at),
                    size(item.bytes_total),
                    str(item.samples_consumed),
                    str(item.world_size),
                )
            )
        else:
            found.append({"id": item[0], "problem": str(item[1])})
            rows.append((item[0], "-", "-", "-", "-", "-", f"- ({item[1].problem})"))
    if json:
        say_json(found)
    else:
        header = ("CHECKPOINT", "STEP", "INCARNATION", "AGE", "SIZE", "SAMPLES", "RANKS")
        say(table(header, rows) if rows else "no checkpoints")


@app.command("verify")
def verify(
    run: RunTarget,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="Only this one. Default: all.")] = None,
    namespace: Namespace = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Read every byte of the checkpoints and compare digests. Exit code 65 if any is damaged."""
    from clipctl.contract.errors import ExitCode
    from clipctl.output import say, say_json

    store = _open(run, namespace, context)
    found = []
    for identity, problem in _verified(store, checkpoint):
        found.append({"id": identity, "ok": problem is None, "problem": problem})
        if not json:
            say(
                f"{'OK      ' if problem is None else 'REJECTED'} {identity}{'' if problem is None else ': ' + problem}"
            )
    if json:
        say_json(found)
    elif not found:
        say("no checkpoints")
    if any(not item["ok"] for item in found):
        raise typer.Exit(int(ExitCode.CORRUPT))


@app.command("export")
def export(
    run: RunTarget,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory to write to.")],
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Which one. Default: the newest that verifies.")
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="folder|open-clip",
            help="`folder`: weights that OpenCLIP loads as `local-dir:OUT`. `open-clip`: a training checkpoint "
            "`OUT/epoch_K.pt` with the optimiser, for `--resume` of OpenCLIP.",
        ),
    ] = "folder",
    namespace: Namespace = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Write a checkpoint in a form that OpenCLIP reads."""
    from clipctl.contract.errors import SpecError
    from clipctl.exportcheckpoint import export as write
    from clipctl.output import say, say_json
    from clipctl.runtarget import parse_id

    if form not in ("folder", "open-clip"):
        raise SpecError(f"--format {form} is not known.", hint="Use folder or open-clip.")
    store = _open(run, namespace, context)
    chosen = _newest(store) if checkpoint is None else parse_id(checkpoint)
    if form == "open-clip":
        _export_training(store, chosen, out, json)
        return
    weights, config = write(store, chosen, out)
    if json:
        say_json({"checkpoint": str(chosen), "weights": str(weights), "config": str(config)})
    else:
        say(f"{chosen} exported: {weights}, {config}")


def _export_training(store: ObjectStore, chosen: CheckpointId, out: str, json: bool) -> None:
    from clipctl.exporttraining import export_training
    from clipctl.output import note, say, say_json

    path, epochs = export_training(store, chosen, out)
    if epochs - int(epochs) > 1e-6:
        note(f"{chosen} is at epoch {epochs:.2f}; OpenCLIP continues at the start of epoch {int(epochs)}.")
    if json:
        say_json({"checkpoint": str(chosen), "path": str(path), "epochs": epochs})
    else:
        say(f"{chosen} exported: {path}")


def _open(run: str, namespace: str | None, context: str | None) -> ObjectStore:
    from clipctl.contract.errors import MissingError
    from clipctl.contract.layout import COMMITS
    from clipctl.runtarget import find

    target = find(run, namespace, context)
    store = target.open()
    if "://" not in target.run_root and not _is_directory(target.run_root):
        raise MissingError(f"{target.run_root} does not exist.", hint="Nothing was stored for this run yet.")
    store.list(COMMITS)  # credentials and bucket are checked here, before anything is printed
    return store


def _is_directory(path: str) -> bool:
    from pathlib import Path

    return Path(path).expanduser().is_dir()


def _verified(store: ObjectStore, only: str | None) -> list[tuple[str, str | None]] | Any:
    from clipctl.contract.commits import iterate_verified, verify
    from clipctl.contract.errors import ClipError, CorruptError
    from clipctl.runtarget import parse_id

    if only is None:
        for identity, outcome in iterate_verified(store):
            yield str(identity), outcome.problem if isinstance(outcome, ClipError) else None
        return
    try:
        verify(store, parse_id(only))
    except CorruptError as error:
        yield only, error.problem
    else:
        yield only, None


def _newest(store: ObjectStore) -> CheckpointId:
    from clipctl.contract.commits import newest_verified
    from clipctl.contract.errors import MissingError
    from clipctl.output import note

    record = newest_verified(store, lambda rejection: note(f"REJECTED {rejection.checkpoint}: {rejection.problem}"))
    if record is None:
        raise MissingError(f"{store.root} holds no checkpoint.", hint="The run has not committed one yet.")
    return record.id

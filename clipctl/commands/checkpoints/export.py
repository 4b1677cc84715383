"""`clipctl checkpoints export`: a checkpoint in a form that OpenCLIP reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.commands.checkpoints.target import Checkpoint, RunWhich, intact, open_run
from clipctl.commands.options import Context, Json, Namespace

if TYPE_CHECKING:
    from clipctl.contract.layout import CheckpointId
    from clipctl.contract.store import ObjectStore


def export(
    run: RunWhich,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory to write to.")],
    checkpoint: Checkpoint = None,
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
    """Write a checkpoint in a form that OpenCLIP reads. Default: the newest that verifies."""
    from clipctl.contract.errors import SpecError
    from clipctl.exportcheckpoint import export as write
    from clipctl.output import say, say_json

    if form not in ("folder", "open-clip"):
        raise SpecError(f"--format {form} is not known.", hint="Use folder or open-clip.")
    opened = open_run(run, namespace, context, checkpoint)
    chosen = intact(opened)
    if form == "open-clip":
        _export_training(opened.store, chosen, out, json)
        return
    weights, config = write(opened.store, chosen, out)
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

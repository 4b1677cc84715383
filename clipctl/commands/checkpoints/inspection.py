"""`clipctl checkpoints inspect`: what is in a checkpoint?"""

from __future__ import annotations

from clipctl.commands.checkpoints.target import Checkpoint, RunWhich, open_run
from clipctl.commands.options import Context, Json, Namespace


def inspect(
    run: RunWhich,
    checkpoint: Checkpoint = None,
    namespace: Namespace = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Show the commit record, the parts and the state of a checkpoint. Default: the newest. Reads no tensors."""
    from clipctl.checkpointview import describe, lines
    from clipctl.contract.checkpoint_selector import LATEST, select
    from clipctl.output import say, say_json

    opened = open_run(run, namespace, context, checkpoint)
    found = describe(opened.store, select(opened.store, opened.which or LATEST))
    if json:
        say_json(found)
    else:
        say("\n".join(lines(found)))

"""`clipctl checkpoints ls`: which checkpoints are there?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipctl.commands.checkpoints.target import RunWhich, open_run
from clipctl.commands.options import Context, Json, Namespace

if TYPE_CHECKING:
    from clipctl.commands.checkpoints.target import Opened


def ls(run: RunWhich, namespace: Namespace = None, context: Context = None, json: Json = False) -> None:
    """List the committed checkpoints, newest first. Reads the commit records only."""
    from dataclasses import asdict

    from clipctl.output import age, say, say_json, size, table
    from clipctl.runstorage import CheckpointSummary, summaries

    opened = open_run(run, namespace, context)
    only = _named(opened)
    rows: list[tuple[str, ...]] = []
    found: list[dict[str, Any]] = []
    for item in summaries(opened.store):
        if only is not None and (item.id if isinstance(item, CheckpointSummary) else item[0]) not in only:
            continue
        if isinstance(item, CheckpointSummary):
            found.append(asdict(item))
            numbers = (str(item.step), str(item.incarnation), age(item.created_at), size(item.bytes_total))
            loss = item.metrics.get("loss")
            last = (str(item.samples_consumed), str(item.world_size), "-" if loss is None else f"{loss:.4f}")
            rows.append((item.id, *numbers, *last))
        else:
            found.append({"id": item[0], "problem": str(item[1])})
            rows.append((item[0], "-", "-", "-", "-", "-", "-", f"- ({item[1].problem})"))
    if json:
        say_json(found)
    else:
        header = ("CHECKPOINT", "STEP", "INCARNATION", "AGE", "SIZE", "SAMPLES", "RANKS", "LOSS")
        say(table(header, rows) if rows else "no checkpoints")


def _named(opened: Opened) -> set[str] | None:
    """Ids of what was named: one, or all incarnations of a step; None if nothing was."""
    from clipctl.contract.checkpoint_selector import BEST, LATEST, matches

    if opened.which is None:
        return None
    found = matches(opened.store, opened.which)
    return set(map(str, found[:1] if opened.which in (LATEST, BEST) else found))

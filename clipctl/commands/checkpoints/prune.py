"""`clipctl checkpoints prune`: delete what need not be kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipctl.commands.checkpoints.target import Run, open_run
from clipctl.commands.options import Context, Json, Namespace

if TYPE_CHECKING:
    from clipctl.contract.pruning import Pruning
    from clipctl.contract.retention import KeepPolicy


def prune(
    run: Run,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=2, help="Newest checkpoints to keep. Default: the policy of the run.yaml given."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    orphans_older_than: Annotated[
        str,
        typer.Option(
            "--orphans-older-than",
            metavar="TIME",
            help="Rests of saves that were never committed go so long after their writer was replaced: 90s, 30m, 2h.",
        ),
    ] = "1h",
    namespace: Namespace = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Delete checkpoints that the keep policy does not want, and rests of saves that were never committed.

    Two checkpoints are read back first; unless two intact ones stay, none is deleted.
    """
    import time

    from clipctl.contract.checkpoint_selector import candidates
    from clipctl.contract.pruning import apply, plan
    from clipctl.output import note, say, say_json

    seconds = _seconds(orphans_older_than)
    opened = open_run(run, namespace, context)
    pruning = plan(
        opened.store,
        _policy(keep, opened.keep),
        candidates(opened.store),
        time.time(),
        lambda rejection: note(f"REJECTED {rejection.checkpoint}: {rejection.problem}"),
        seconds,
    )
    if not dry_run:
        apply(opened.store, pruning)
    if json:
        say_json({"dry_run": dry_run, **_as_json(pruning)})
    else:
        say("\n".join(_lines(pruning, dry_run)))


def _policy(keep: int | None, of_run: KeepPolicy | None) -> KeepPolicy:
    from clipctl.contract.errors import SpecError
    from clipctl.contract.retention import KeepPolicy

    if keep is not None:
        return KeepPolicy(last=keep)
    if of_run is None:
        raise SpecError(
            "only a run.yaml says what is to be kept, and the run was given in another way.",
            hint="Give the path of its run.yaml, or --keep.",
        )
    return of_run


def _seconds(text: str) -> float:
    import re

    from clipctl.contract.errors import SpecError

    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if match is None:
        raise SpecError(f"{text[:40]!a} is not a length of time.", hint="Write it as 90s, 30m, 2h or 1d.")
    return int(match.group(1)) * {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[match.group(2)]


def _as_json(pruning: Pruning) -> dict[str, Any]:
    return {
        "kept": list(map(str, pruning.keep)),
        "deleted": list(map(str, pruning.delete)),
        "orphans": [info.key for info in pruning.orphans],
        "orphan_bytes": sum(info.size for info in pruning.orphans),
        "unfinished_uploads": [item.key for item in pruning.unfinished],
    }


def _lines(pruning: Pruning, dry_run: bool) -> list[str]:
    from clipctl.output import size

    verb = "would delete" if dry_run else "deleted"
    lines = [f"{verb} {checkpoint}" for checkpoint in pruning.delete]
    if pruning.orphans:
        count, total = len(pruning.orphans), size(sum(info.size for info in pruning.orphans))
        lines.append(f"{verb} {count} objects ({total}) of saves that were never committed")
    if pruning.unfinished:
        lines.append(f"{verb} {len(pruning.unfinished)} unfinished uploads")
    return [*lines, f"{len(pruning.keep)} checkpoints stay"]

"""`clipctl checkpoints diff`: which tensors differ, and by how much?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.commands.checkpoints.target import RunWhich, intact, open_run
from clipctl.commands.options import Context, Json, Namespace

if TYPE_CHECKING:
    from clipctl.checkpointdiff import Side, TensorDiff
    from clipctl.contract.layout import CheckpointId

_DIFFERENT = 1


def diff(
    first: RunWhich,
    second: Annotated[
        str, typer.Argument(metavar="[RUN]@WHICH", help="Another checkpoint; @WHICH alone is one of the same run.")
    ],
    max_elements: Annotated[
        int, typer.Option("--max-elements", min=0, help="Do not compute how far larger tensors are apart.")
    ] = 1 << 24,
    namespace: Namespace = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Compare two checkpoints tensor by tensor. Exit code 0 if all are the same, 1 if not.

    What is read is verified first. Distances are exact, in double precision: the largest absolute difference, and the
    norm of the difference divided by that of the first tensor.
    """
    from dataclasses import asdict

    from clipctl.checkpointdiff import SAME, compare
    from clipctl.output import say, say_json

    (one, chosen), (other, against) = (_side(text, first, namespace, context) for text in (first, second))
    found = list(compare(one, other, max_elements))
    different = [item for item in found if item.verdict != SAME]
    if json:
        counts = {"tensors": len(found), "same": len(found) - len(different), "different": len(different)}
        differences = [asdict(item) for item in different]
        say_json({"first": str(chosen), "second": str(against), **counts, "differences": differences})
    else:
        say("\n".join([f"{chosen} and {against}: {len(different)} of {len(found)} tensors differ", *_table(different)]))
    if different:
        raise typer.Exit(_DIFFERENT)


def _side(text: str, first: str, namespace: str | None, context: str | None) -> tuple[Side, CheckpointId]:
    from clipctl.checkpointdiff import Side
    from clipctl.contract.checkpoint_selector import split_target

    run = f"{split_target(first)[0]}{text}" if text.startswith("@") else text
    opened = open_run(run, namespace, context)
    chosen = intact(opened)
    return Side.open(opened.store, chosen), chosen


def _table(different: list[TensorDiff]) -> list[str]:
    from clipctl.output import table

    if not different:
        return []
    rows = [(item.part, item.name, item.verdict, *_numbers(item)) for item in different]
    return [table(("PART", "TENSOR", "VERDICT", "MAX ABS", "RELATIVE"), rows)]


def _numbers(item: TensorDiff) -> tuple[str, str]:
    if item.first != item.second:
        return item.first or "-", item.second or "-"
    return tuple("-" if value is None else f"{value:.3g}" for value in (item.max_abs, item.relative))  # type: ignore[return-value]

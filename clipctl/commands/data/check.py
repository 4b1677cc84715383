"""`clipctl data check`: what is in a data set?"""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.data.options import Data, IndexName, progress_line
from clipctl.commands.options import Json


def check(
    data: Data,
    samples: Annotated[int, typer.Option(min=1, help="Samples to draw at random.")] = 1000,
    all_samples: Annotated[bool, typer.Option("--all", help="Look at every sample.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    max_bad: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of samples that may be unusable. Default: data.max_replaced."),
    ] = None,
    previews: Annotated[int, typer.Option(min=0, help="Samples to show.")] = 8,
    sheet: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Write a contact sheet: pictures with their captions.")
    ] = None,
    name: IndexName = None,
    json: Json = False,
) -> None:
    """Read samples, decode them and report what they are like. Exit code 65 if too many cannot be used."""
    import json as encoding

    from clipctl.bars import can_draw, terminal_width
    from clipctl.contract.errors import ExitCode
    from clipctl.dataview import check_lines
    from clipctl.output import say, say_json
    from clipctl.trainerprocess import run_trainer
    from clipctl.trainingdata import training_data

    given = training_data(data, name)
    request = {
        "data": given.to_json(),
        "samples": None if all_samples else samples,
        "seed": seed,
        "max_bad": given.section.max_replaced if max_bad is None else max_bad,
        "previews": previews,
        "sheet": sheet,
    }
    with progress_line() as progress:
        report = run_trainer("clip_trainer.data.check.command", [encoding.dumps(request)], progress)
    if json:
        say_json(report)
    else:
        say("\n".join(check_lines(report, terminal_width(), blocks=can_draw())))
    if not report["ok"]:
        raise typer.Exit(int(ExitCode.CORRUPT))

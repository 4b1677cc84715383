"""`clipctl data bench`: how fast can a data set be loaded?"""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.data.options import Data, IndexName, progress_line
from clipctl.commands.options import Json


def bench(
    data: Data,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for each stage.")] = 5.0,
    batches: Annotated[
        int | None, typer.Option(min=1, help="End the measurement of the whole loader after so many batches.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Default: data.threads of a run.yaml, else one for each CPU.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples of a batch.")] = 256,
    model: Annotated[
        str | None,
        typer.Option(help="Whose image size and tokenizer to use. Default: that of a run.yaml, else ViT-B-32."),
    ] = None,
    name: IndexName = None,
    json: Json = False,
) -> None:
    """Measure reading, decoding, augmenting and tokenising of these samples, and say what holds training up."""
    import json as encoding

    from clipctl.benchview import bench_lines
    from clipctl.output import say, say_json
    from clipctl.trainerprocess import run_trainer
    from clipctl.trainingdata import training_data

    given = training_data(data, name)
    request = {
        "data": given.to_json(),
        "model": model or ("ViT-B-32" if given.run is None else given.run.model.name),
        "batch": batch,
        "threads": threads or (None if given.run is None else given.section.threads),
        "seconds": seconds,
        "batches": batches,
    }
    with progress_line() as progress:
        report = run_trainer("clip_trainer.data.bench.command", [encoding.dumps(request)], progress)
    if json:
        say_json(report)
    else:
        say("\n".join(bench_lines(report)))

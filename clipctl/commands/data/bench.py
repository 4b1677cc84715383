"""`clipctl data bench`: how fast can a data set be loaded?"""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.data.options import Url, progress_line
from clipctl.commands.options import Json


def bench(
    data: Url,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for each stage.")] = 5.0,
    batches: Annotated[
        int | None, typer.Option(min=1, help="End the measurement of the whole loader after so many batches.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="As data.threads of a run. Default: one for each CPU.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples of a batch.")] = 256,
    model: Annotated[str, typer.Option(help="Whose image size and tokenizer to use.")] = "ViT-B-32",
    json: Json = False,
) -> None:
    """Measure reading, decoding, augmenting and tokenising of these samples, and say what holds training up."""
    import json as encoding

    from clipctl.benchview import bench_lines
    from clipctl.output import say, say_json
    from clipctl.trainerprocess import run_trainer

    request = {
        "data": data,
        "model": model,
        "batch": batch,
        "threads": threads,
        "seconds": seconds,
        "batches": batches,
    }
    with progress_line() as progress:
        report = run_trainer("clip_trainer.data.bench_command", [encoding.dumps(request)], progress)
    if json:
        say_json(report)
    else:
        say("\n".join(bench_lines(report)))

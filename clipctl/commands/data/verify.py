"""`clipctl data verify`: are the shards what their index says?"""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.data.options import Url, progress_line
from clipctl.commands.options import Json


def verify(
    data: Url,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte; default: compare sizes and etags.")] = False,
    json: Json = False,
) -> None:
    """Compare a data set with its index. Exit code 65 if a shard is damaged."""
    from dataclasses import asdict

    from clip_trainer.data.verify import verify_dataset
    from clipctl.contract.errors import ExitCode
    from clipctl.output import say, say_json, size

    with progress_line() as progress:
        report = verify_dataset(data, deep=deep, progress=progress)
    if json:
        say_json({**asdict(report), "ok": report.ok})
    else:
        for problem in report.problems:
            say(f"DAMAGED {problem.shard}: {problem.problem}")
        how = "every byte read" if deep else "sizes and etags compared"
        verdict = "OK" if report.ok else f"{len(report.problems)} damaged"
        say(f"{verdict}: {report.samples} samples in {report.shards} shards ({size(report.bytes)}), {how}")
    if not report.ok:
        raise typer.Exit(int(ExitCode.CORRUPT))

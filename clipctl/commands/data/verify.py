"""`clipctl data verify`: are the shards what their index says?"""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.data.options import IndexName, Threads, Url, progress_line
from clipctl.commands.options import Json

_SHOWN = 3


def verify(
    data: Url,
    name: IndexName = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte; default: compare sizes and etags.")] = False,
    threads: Threads = 4,
    json: Json = False,
) -> None:
    """Compare a data set with its index. Exit code 65 if a shard is damaged."""
    from dataclasses import asdict

    from clip_trainer.data.index.verify import verify_dataset
    from clipctl.contract.errors import ExitCode
    from clipctl.output import say, say_json, size

    with progress_line() as progress:
        report = verify_dataset(data, name=name, deep=deep, threads=threads, progress=progress)
    if json:
        say_json({**asdict(report), "ok": report.ok})
    else:
        for problem in report.problems:
            say(f"DAMAGED {problem.shard}: {problem.problem}")
        if report.unindexed:
            say(f"NOT INDEXED: {_some(report.unindexed)}")
        how = "every byte read" if deep else "sizes and etags compared"
        verdict = "OK" if report.ok else f"{len(report.problems)} damaged"
        say(f"{verdict}: {report.samples} samples in {report.shards} shards ({size(report.bytes)}), {how}")
    if not report.ok:
        raise typer.Exit(int(ExitCode.CORRUPT))


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

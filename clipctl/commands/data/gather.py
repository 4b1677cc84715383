"""`clipctl data gather`: a table of addresses becomes shards."""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.data.options import progress_line
from clipctl.commands.data.writeoptions import Mode, Quality, ResizeTo, resize_option
from clipctl.commands.options import Json


def gather(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", help="Addresses and captions: .tsv, .csv, .jsonl or .parquet, with a header or not."
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Directory or s3:// URL for the shards.")],
    url_column: Annotated[str | None, typer.Option(help="Column of addresses. Default: found by its name.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Column of captions. Default: found by its name.")] = None,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="Rows of the table that a shard is for.")] = 1000,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests at the same time.")] = 64,
    per_host: Annotated[int, typer.Option(min=1, help="Requests to one host at the same time.")] = 4,
    host_delay: Annotated[
        float, typer.Option(min=0, help="Seconds between the starts of two requests to one host.")
    ] = 0.0,
    connect_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to connect.")] = 10.0,
    read_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds without a byte.")] = 15.0,
    total_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a whole request.")] = 60.0,
    retries: Annotated[
        int, typer.Option(min=0, help="Further attempts after timeouts, broken connections and statuses 429 and 5xx.")
    ] = 2,
    max_bytes: Annotated[int, typer.Option(min=1, help="Larger files are not taken.")] = 32 << 20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger images are not taken.")] = 89_478_485,
    resize: ResizeTo = None,
    resize_mode: Mode = "shortest",
    quality: Quality = 95,
    opt_out: Annotated[
        str, typer.Option(metavar="DIRECTIVES", help="Directives of X-Robots-Tag that keep an image out.")
    ] = "noai,noimageai,noindex,noimageindex",
    contact: Annotated[
        str, typer.Option(help="Put into the User-Agent, for owners of sites: an e-mail or web address.")
    ] = "",
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Also connect to private, loopback and link-local addresses.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Fetch the rows again that failed in an earlier run.")
    ] = False,
    json: Json = False,
) -> None:
    """Fetch the images of a table into shards with an index. Run it again to go on after an interruption.

    What became of every row is in shard-*.csv beside the shards. robots.txt is honoured.
    """
    from dataclasses import asdict

    from clip_trainer.data.gather import GatherOptions
    from clip_trainer.data.gather import gather as run
    from clip_trainer.data.gather_fetch import Acceptance
    from clip_trainer.data.gather_http import Limits
    from clip_trainer.data.gather_retry import RetryRule
    from clip_trainer.data.gather_table import TableColumns
    from clipctl.output import say, say_json, size

    directives = frozenset(word.strip().lower() for word in opt_out.split(",")) - {""}
    smaller = resize_option(resize, resize_mode, quality)
    options = GatherOptions(
        columns=TableColumns(url_column, caption_column),
        rows_per_shard=rows_per_shard,
        concurrency=concurrency,
        per_host=per_host,
        host_delay=host_delay,
        limits=Limits(connect_timeout, read_timeout, total_timeout),
        acceptance=Acceptance(max_bytes, max_pixels, smaller, directives),
        retry=RetryRule(retries),
        contact=contact,
        allow_private=allow_private,
        retry_failed=retry_failed,
    )
    with progress_line() as progress:
        done = run(table, out, options, progress)
    if json:
        say_json(asdict(done))
        return
    say(f"{done.images} of {done.rows} images in {done.shards} shards ({size(done.bytes)}) written to {done.out}")
    for reason, number in done.failures.items():
        say(f"{number:>8} {reason}")

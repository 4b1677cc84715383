"""`clipctl data gather`: a table of addresses becomes shards."""

from __future__ import annotations

from clipctl.commands.data import gatheroptions as of
from clipctl.commands.data.options import progress_line
from clipctl.commands.data.writeoptions import Mode, Quality, ResizeTo, resize_option
from clipctl.commands.options import Json


def gather(
    table: of.Table,
    out: of.Out,
    url_column: of.UrlColumn = None,
    caption_column: of.CaptionColumn = None,
    rows_per_shard: of.RowsPerShard = 1000,
    concurrency: of.Concurrency = 64,
    per_host: of.PerHost = 4,
    host_delay: of.HostDelay = 0.0,
    connect_timeout: of.ConnectTimeout = 10.0,
    read_timeout: of.ReadTimeout = 15.0,
    total_timeout: of.TotalTimeout = 60.0,
    retries: of.Retries = 2,
    max_bytes: of.MaxBytes = 32 << 20,
    max_pixels: of.MaxPixels = 89_478_485,
    resize: ResizeTo = None,
    resize_mode: Mode = "shortest",
    quality: Quality = 95,
    opt_out: of.OptOut = "noai,noimageai,noindex,noimageindex",
    contact: of.Contact = "",
    allow_private: of.AllowPrivate = False,
    retry_failed: of.RetryFailed = False,
    json: Json = False,
) -> None:
    """Fetch the images of a table into shards with an index. Run it again to go on after an interruption.

    What became of every row is in shard-*.csv beside the shards. robots.txt is honoured.
    """
    from dataclasses import asdict

    from clip_trainer.data.gather.exchange import Limits
    from clip_trainer.data.gather.fetch import Acceptance
    from clip_trainer.data.gather.gather import GatherOptions
    from clip_trainer.data.gather.gather import gather as run
    from clip_trainer.data.gather.retry import RetryRule
    from clip_trainer.data.gather.table import TableColumns
    from clipctl.output import say, say_json, size

    smaller = resize_option(resize, resize_mode, quality)
    options = GatherOptions(
        columns=TableColumns(url_column, caption_column),
        rows_per_shard=rows_per_shard,
        concurrency=concurrency,
        per_host=per_host,
        host_delay=host_delay,
        limits=Limits(connect_timeout, read_timeout, total_timeout),
        acceptance=Acceptance(max_bytes, max_pixels, smaller, of.directives(opt_out)),
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

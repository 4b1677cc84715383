"""Options of `clipctl data gather`: how to ask the web, and what to take from it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import typer

Table = Annotated[
    str, typer.Argument(metavar="TABLE", help="Addresses and captions: a .tsv, .csv, .jsonl or .parquet table.")
]
Out = Annotated[str, typer.Argument(metavar="OUT", help="Directory or s3:// URL for the shards.")]
UrlColumn = Annotated[str | None, typer.Option(help="Column of addresses. Default: found by its name or content.")]
CaptionColumn = Annotated[str | None, typer.Option(help="Column of captions. Default: found by its name or place.")]
RowsPerShard = Annotated[int, typer.Option(min=1, help="Rows of the table that a shard is for.")]

Concurrency = Annotated[int, typer.Option(min=1, max=1024, help="Requests at the same time.")]
PerHost = Annotated[int, typer.Option(min=1, help="Requests to one host at the same time.")]
HostDelay = Annotated[float, typer.Option(min=0, help="Seconds between the starts of two requests to one host.")]
ConnectTimeout = Annotated[float, typer.Option(min=0.1, help="Seconds to connect.")]
ReadTimeout = Annotated[float, typer.Option(min=0.1, help="Seconds without a byte.")]
TotalTimeout = Annotated[float, typer.Option(min=0.1, help="Seconds for a whole request.")]
Retries = Annotated[
    int, typer.Option(min=0, help="Further attempts after timeouts, broken connections and statuses 429 and 5xx.")
]
Contact = Annotated[str, typer.Option(help="Put into the User-Agent, for owners of sites: an e-mail or web address.")]
AllowPrivate = Annotated[
    bool, typer.Option("--allow-private", help="Also connect to private, loopback and link-local addresses.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Fetch the rows again that failed in an earlier run.")
]

MaxBytes = Annotated[int, typer.Option(min=1, help="Larger files are not taken.")]
MaxPixels = Annotated[int, typer.Option(min=1, help="Larger images are not taken.")]
OptOut = Annotated[
    str, typer.Option(metavar="DIRECTIVES", help="Directives of X-Robots-Tag that keep an image out, with commas.")
]


def directives(text: str) -> Collection[str]:
    """The directives in a list with commas."""
    return frozenset(word.strip().lower() for word in text.split(",")) - {""}

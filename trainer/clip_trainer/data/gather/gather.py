"""Gathering images by their addresses: `clipctl data gather`.

Every shard belongs to a run of rows of the table: shard 3 of a thousand rows each holds what could be had of rows 3000
to 3999, under their numbers. So a shard's name and keys never depend on which rows fail, an interrupted run goes on
with the shards that are not there, and rows that failed can be tried again later.

A shard is published as a whole, and after it the file of its results, which marks it as done.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from clip_trainer.data.gather.address import is_any, is_public
from clip_trainer.data.gather.crew import Crew, Job
from clip_trainer.data.gather.exchange import Limits, WebClient
from clip_trainer.data.gather.fetch import Acceptance, ImageFetcher
from clip_trainer.data.gather.hosts import HostQueue
from clip_trainer.data.gather.progress import GatherTally
from clip_trainer.data.gather.record import claim
from clip_trainer.data.gather.results import Result, from_csv, results_name, to_csv
from clip_trainer.data.gather.retry import RetryRule
from clip_trainer.data.gather.shard import GatheringShard
from clip_trainer.data.gather.table import USUAL_COLUMNS, Row, TableColumns, read_rows, survey
from clip_trainer.data.index.update import index_dataset
from clip_trainer.data.progress import Progress
from clip_trainer.data.storage.location import parse_location
from clip_trainer.data.storage.source import Source, open_source
from clip_trainer.data.writing.image_resize import prepare_pillow
from clip_trainer.data.writing.shard_record import shard_name
from clipctl.contract.errors import MissingError, SpecError

AGENT = "clipctl"
"""The product token that robots.txt files and opt-outs call us by."""

_UPLOADS = 2
_OPEN_SHARDS = 8  # so that the last slow hosts of one shard keep no thread from the next


@dataclass(frozen=True)
class GatherOptions:
    """How to gather."""

    columns: TableColumns = USUAL_COLUMNS
    rows_per_shard: int = 1000
    concurrency: int = 64  # requests at the same time
    per_host: int = 4  # of them to one host
    host_delay: float = 0.0  # seconds between the starts of two requests to one host
    limits: Limits = field(default_factory=Limits)
    acceptance: Acceptance = field(default_factory=Acceptance)
    retry: RetryRule = field(default_factory=RetryRule)
    contact: str = ""  # what the User-Agent says besides: where the owner of a site can complain
    allow_private: bool = False  # also connect to addresses that are not of the open internet
    retry_failed: bool = False  # fetch the rows again that failed in an earlier run


@dataclass(frozen=True)
class GatherSummary:
    """What there is now, from this run and those before it."""

    out: str
    rows: int
    images: int
    failures: Mapping[str, int]  # rows by reason
    fetched: int  # rows that this run dealt with
    shards: int
    bytes: int
    identity: str  # digest of the content


def gather(
    table: str | Path, out: str, options: GatherOptions = GatherOptions(), progress: Progress | None = None
) -> GatherSummary:
    """Fetch the images of a table, and write shards, their results and an index.

    Args:
        table: see `table`.
        out: directory or URL; may hold the beginnings of the same work.
        options: how.
        progress: told after every row.

    Raises:
        MissingError: the table does not exist or has no rows, or no image could be had.
        SpecError: the table makes no sense, or `out` is not a directory location.
        CannotCreateError: `out` holds something else, or cannot be written.
    """
    location = parse_location(out)
    if location.names is not None:
        raise SpecError(f"Cannot gather into {out}.", hint="Give a directory.")
    found = survey(table, options.columns)
    sink = open_source(location)
    resize = options.acceptance.resize
    if resize is not None:
        prepare_pillow()
    decisive = {"rows_per_shard": options.rows_per_shard, "resize": resize and resize.options()}
    claim(sink, {"table": found.digest, "rows": found.rows, **decisive})
    tally = GatherTally(found.rows, progress)
    shards = _unfinished(sink, _pieces(table, options), -(-found.rows // options.rows_per_shard), options, tally)
    with ThreadPoolExecutor(_UPLOADS) as pool, _crew(options, tally) as crew:
        _run(crew, shards, lambda shard: pool.submit(_publish, sink, shard))
    if not tally.images:
        reasons = ", ".join(f"{number} {reason}" for reason, number in tally.failures.items())
        raise MissingError(f"No image of {table} could be had ({reasons}).", hint=f"{out} says why, row by row.")
    index = index_dataset(out, source=sink, progress=progress).index
    return GatherSummary(
        out=out,
        rows=found.rows,
        images=tally.images,
        failures=tally.failures,
        fetched=tally.fetched,
        shards=len(index.shards),
        bytes=index.total_bytes,
        identity=index.identity,
    )


def _run(crew: Crew, shards: Iterator[GatheringShard], publish: Callable[[GatheringShard], Future[None]]) -> None:
    """Fetch shards, several at a time, and publish each when it is complete."""
    pending: deque[Future[None]] = deque()
    for shard in shards:
        crew.add(shard)
        if crew.open == _OPEN_SHARDS:
            pending.append(publish(crew.next_complete()))
        if len(pending) > _UPLOADS:
            pending.popleft().result()
    while crew.open:
        pending.append(publish(crew.next_complete()))
    for future in pending:
        future.result()


def user_agent(contact: str) -> str:
    """What servers are told about us."""
    return f"{AGENT} ({contact})" if contact else AGENT


def _crew(options: GatherOptions, tally: GatherTally) -> Crew:
    allowed = is_any if options.allow_private else is_public
    client = WebClient(user_agent(options.contact), options.limits, allowed)
    fetcher = ImageFetcher(client, AGENT, options.acceptance)
    hosts: HostQueue[Job] = HostQueue(options.per_host, options.host_delay)
    return Crew(fetcher, hosts, options.retry, options.concurrency, tally.count)


def _pieces(table: str | Path, options: GatherOptions) -> Iterator[list[Row]]:
    """The rows of each shard."""
    rows = read_rows(table, options.columns)
    while piece := list(islice(rows, options.rows_per_shard)):
        yield piece


def _unfinished(
    sink: Source, pieces: Iterator[list[Row]], count: int, options: GatherOptions, tally: GatherTally
) -> Iterator[GatheringShard]:
    """The shards that rows have to be fetched for; the results of the others are counted."""
    names = [name for number in range(count) for name in (results_name(number), shard_name(number))]
    existing = sink.info_many(names).keys()
    for number, rows in enumerate(pieces):
        stored = _stored(sink, number, existing)
        retried = [result for result in stored or () if not result.ok] if options.retry_failed else []
        if stored is not None and not retried:
            tally.count_stored(stored)
            continue
        shard = GatheringShard(number, rows)
        if stored is not None and shard_name(number) in existing:
            shard.keep(stored, sink.load(shard_name(number)))
            tally.count_stored(shard.results())
        yield shard


def _stored(sink: Source, number: int, existing: Collection[str]) -> list[Result] | None:
    """The results of a shard that is done, or None."""
    if results_name(number) not in existing:
        return None
    results = from_csv(sink.load(results_name(number)), f"{sink.base}/{results_name(number)}")
    lost = any(result.ok for result in results) and shard_name(number) not in existing
    return None if lost else results


def _publish(sink: Source, shard: GatheringShard) -> None:
    with contextlib.closing(shard):
        if archive := shard.archive():
            sink.save(shard_name(shard.number), archive)
        sink.save(results_name(shard.number), to_csv(shard.results()))

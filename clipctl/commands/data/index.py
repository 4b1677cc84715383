"""`clipctl data index`: what is in the shards, once and for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipctl.commands.data.options import IndexName, Threads, Url, progress_line
from clipctl.commands.options import Json

if TYPE_CHECKING:
    from clip_trainer.data.index.rules import SampleRules
    from clip_trainer.data.index.update import IndexUpdate


def index(
    data: Url,
    name: IndexName = None,
    need: Annotated[
        list[str] | None,
        typer.Option(metavar="image|caption|class", help="Only samples that have this. Repeatable."),
    ] = None,
    min_side: Annotated[int | None, typer.Option(min=1, help="Least width and height of the image, pixels.")] = None,
    max_aspect: Annotated[float | None, typer.Option(min=1, help="Greatest ratio of longer to shorter side.")] = None,
    min_caption: Annotated[int | None, typer.Option(min=1, help="Least length of every caption, characters.")] = None,
    max_caption: Annotated[
        int | None, typer.Option(min=1, help="Greatest length of every caption, characters.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only samples whose .json says this. Repeatable."),
    ] = None,
    duplicates: Annotated[
        str | None,
        typer.Option(
            metavar="refuse|keep",
            help="A key or suffix that comes again: refuse (default), or begin a new sample as OpenCLIP does.",
        ),
    ] = None,
    all_samples: Annotated[
        bool, typer.Option("--all-samples", help="List every sample: forget the rules that the index has.")
    ] = False,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Leave damaged shards out.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Read every shard, the unchanged ones too.")] = False,
    threads: Threads = 4,
    json: Json = False,
) -> None:
    """Write the index of a data set beside its shards, or bring it up to date; training needs one.

    Shards that are unchanged since they were indexed are not read again. The rules for the samples to list are kept in
    the index: run without any of them, it keeps those it has.
    """
    from clip_trainer.data.index.rules import parse_where
    from clip_trainer.data.index.update import IndexOptions, index_dataset
    from clipctl.output import say, say_json

    rules = _rules(
        all_samples,
        needs=tuple(need or ()),
        min_side=min_side,
        max_aspect=max_aspect,
        min_caption=min_caption,
        max_caption=max_caption,
        where=parse_where(where or ()),
        duplicates=duplicates,
    )
    options = IndexOptions(rules, skip_damaged=skip_damaged, threads=threads)
    with progress_line() as progress:
        update = index_dataset(data, options, name=name, force=force, progress=progress)
    if json:
        say_json(_summary(update))
    else:
        say("\n".join(_lines(update)))


def _rules(all_samples: bool, **given: Any) -> SampleRules | None:
    """The rules that were given; None if there were none, which keeps those of the index."""
    from clip_trainer.data.index.rules import SampleRules
    from clipctl.contract.errors import SpecError

    given = {field: value for field, value in given.items() if value not in (None, ())}
    if given and all_samples:
        raise SpecError("--all-samples lists every sample, and a rule leaves some out.", hint="Give one or the other.")
    return SampleRules(**given) if given or all_samples else None


def _summary(update: IndexUpdate) -> dict[str, Any]:
    header, changes = update.index.header, update.changes
    return {
        "shards": header.shards,
        "samples": header.samples,
        "bytes": header.bytes,
        "digest": header.digest,
        "identity": header.identity,
        "rules": header.rules.to_json(),
        "left_out": header.left_out,
        "damaged": header.damaged,
        "changes": {kind: len(getattr(changes, kind)) for kind in ("new", "changed", "unchanged", "gone")},
        "beside": update.beside,
    }


def _lines(update: IndexUpdate) -> list[str]:
    from clipctl.output import size

    header = update.index.header
    lines = [f"DAMAGED, left out: {problem}" for problem in header.damaged.values()]
    lines.append(f"Shards: {update.changes}")
    if header.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(header.left_out.items()))
        lines.append(f"Samples left out: {sum(header.left_out.values())} ({reasons})")
    total = f"{header.samples} samples in {header.shards} shards ({size(header.bytes)}), index {header.digest}"
    return [*lines, total if update.beside else f"{total}, in the cache of this machine"]

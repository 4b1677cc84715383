"""What `clipctl data stats` and `check` show on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.cells import set_cell_size

from clipctl.bars import Row, bins, chart, counted
from clipctl.output import size, table

_KEYS_NAMED = 3
_SHARDS_NAMED = 10


def stats_lines(stats: Mapping[str, Any], width: int, *, blocks: bool = True) -> Iterator[str]:
    """The figures of an index.

    Args:
        stats: a `clip_trainer.data.check.stats.DatasetStats` as JSON.
        width: columns of the terminal.
        blocks: see `clipctl.bars.chart`.
    """
    yield f"{stats['data']}: {stats['samples']:,} samples in {stats['shards']:,} shards, {size(stats['bytes'])}"
    yield ""
    yield _figures(stats)
    sized = stats["bytes_per_sample"]
    part = "" if sized["total"] == stats["samples"] else f", of {sized['total']:,} samples"
    yield from _section(f"bytes per sample{part}", bins(sized, size), width, blocks)
    yield from _section("members", counted(stats["suffixes"], 12), width, blocks, total=stats["samples"])
    have = [(name, stats[f"with_{name}"]) for name in ("image", "caption", "class")]
    yield from _section("samples with", have, width, blocks, total=stats["samples"])
    yield from _section("left out by the rules", counted(stats["left_out"], 12), width, blocks)
    yield ""
    for name, value in stats["rules"].items():
        yield f"rule     {name.replace('_', ' ')}: {_rule(value)}"
    for shard, problem in list(stats["damaged"].items())[:_SHARDS_NAMED]:
        yield f"damaged  {shard}: {problem}"
    if len(stats["damaged"]) > _SHARDS_NAMED:
        yield f"damaged  {len(stats['damaged']) - _SHARDS_NAMED} more"
    yield f"etags    of {stats['shards_with_etag']:,} shards"
    yield f"xxh3     of {stats['shards_with_xxh3']:,} shards"
    yield f"index    {stats['digest']}"
    yield f"content  {stats['identity']}"


def check_lines(report: Mapping[str, Any], width: int, *, blocks: bool = True) -> Iterator[str]:
    """What a check found; the verdict comes last.

    Args:
        report: what `clip_trainer.data.check.command` answers.
        width: columns of the terminal.
        blocks: see `clipctl.bars.chart`.
    """
    read, samples = report["read"], report["samples"]
    how = "all" if read == samples else f"a random draw, seed {report['seed']}"
    yield f"{report['data']}: {read:,} of {samples:,} samples read ({how}), {size(report['bytes'])}"
    yield from _previews(report["previews"], width)
    images, captions = report["images"], report["captions"]
    side = images["shorter_side"]
    yield from _section(f"shorter side, pixels{_summary(side)}", bins(side), width, blocks)
    yield from _section("width / height", bins(images["aspect"]), width, blocks)
    yield from _section("format", counted(images["formats"]), width, blocks)
    yield from _section("colours", counted(images["modes"]), width, blocks)
    characters, tokens = captions["characters"], captions["tokens"]
    yield from _section(f"caption, characters{_summary(characters)}", bins(characters), width, blocks)
    yield from _section(f"caption, CLIP tokens{_summary(tokens)}", bins(tokens), width, blocks)
    yield from _section("script of captions", counted(captions["scripts"]), width, blocks)
    yield from _section("language, says the JSON", counted(report["languages"]), width, blocks)
    yield from _section("JSON keys", counted(report["json_keys"], 12), width, blocks, total=read)
    yield from _section("cannot be used", counted(report["problems"], 12), width, blocks, total=read)
    for reason, found in report["examples"].items():
        named = ", ".join(_where(one) for one in found[:_KEYS_NAMED])
        yield f"  {reason}: {named}{', ...' if len(found) > _KEYS_NAMED else ''}"
    yield ""
    yield from _remarks(report)
    yield ""
    yield report["verdict"]


def _rule(value: Any) -> str:
    if not isinstance(value, (list, tuple)):
        return str(value)
    return ", ".join("=".join(one) if isinstance(one, (list, tuple)) else str(one) for one in value)


def _figures(stats: Mapping[str, Any]) -> str:
    rows = []
    for label, name, unit in (
        ("samples per shard", "samples_per_shard", "{:,.0f}".format),
        ("bytes per shard", "bytes_per_shard", size),
        ("bytes per sample", "bytes_per_sample", size),
    ):
        figures = stats[name]
        rows.append((label, *(unit(figures[key]) for key in ("minimum", "median", "mean", "p95", "maximum"))))
    return table(("", "MIN", "MEDIAN", "MEAN", "P95", "MAX"), rows)


def _section(title: str, rows: list[Row], width: int, blocks: bool, total: int | None = None) -> Iterator[str]:
    if rows:
        yield ""
        yield title
        yield from chart(rows, width, total=total, blocks=blocks)


def _summary(figures: Mapping[str, Any]) -> str:
    if not figures["total"]:
        return ""
    return f" (median {figures['median']:g}, 95 % up to {figures['p95']:g}, most {figures['maximum']:g})"


def _previews(previews: list[Mapping[str, Any]], width: int) -> Iterator[str]:
    """A line for each sample: key, size, format, and as much of the caption as fits."""
    if not previews:
        return
    yield ""
    rows = [(one["key"], f"{one['width']}x{one['height']}", one["format"]) for one in previews]
    widths = [min(24, max(len(row[column]) for row in rows)) for column in range(3)]
    for one, row in zip(previews, rows, strict=True):
        cells = "  ".join(set_cell_size(cell, cells) for cell, cells in zip(row, widths, strict=True))
        left = max(16, width - sum(widths) - 8)
        yield f"  {cells}  {set_cell_size(one['caption'], left).rstrip()}"


def _where(example: Mapping[str, Any]) -> str:
    return example["key"] or f"sample {example['index']} of {example['shard']}"


def _remarks(report: Mapping[str, Any]) -> Iterator[str]:
    """What is worth knowing although it does not keep a sample from being used."""
    images, captions = report["images"], report["captions"]
    if captions["count"]:
        cut = f"{100 * captions['cut'] / captions['count']:.1f} % are cut at 77 tokens"
        yield f"captions      {captions['count']:,} in {captions['samples']:,} samples; {cut}"
    for problem, count in captions["missing"].items():
        yield f"{problem:<13} {count:,} samples"
    if report["with_class"]:
        yield f"classes       {report['with_class']:,} samples have a class number"
    if images["rotated_by_exif"]:
        yield f"rotation      {images['rotated_by_exif']:,} images ask for one in their EXIF data; training ignores it"
    scope = "" if report["read"] == report["samples"] else " among those read; --all looks at every sample"
    for name, found in (
        ("keys", report["duplicate_keys"]),
        ("images", images["duplicates"]),
        ("captions", captions["duplicates"]),
    ):
        yield f"repeated      {_repeated(name, found)}{scope if name == 'keys' else ''}"
    if report["sheet"]:
        yield f"sheet         {report['sheet']}"


def _repeated(name: str, found: Mapping[str, Any]) -> str:
    about = "" if found["watched_share"] == 1 else f" (estimated from {100 * found['watched_share']:.2g} %)"
    examples = f": {', '.join(found['examples'][:_KEYS_NAMED])}" if found["examples"] and name != "captions" else ""
    return f"{found['repeats']:,} {name}{about}{examples}"

"""What `clipctl data bench` shows on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clipctl.output import size, table

_HEADERS = ("STAGE", "SAMPLES/S", "CPU-µs/SAMPLE", "BYTES/S")


def bench_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The stages alone, all of them together, and what follows from that.

    Args:
        report: what `clip_trainer.data.bench.command` answers.
    """
    where = "remote" if report["remote"] else "local; what was read before may come from memory"
    yield f"{report['data']} ({where})"
    yield (
        f"{report['model']}, batches of {report['batch']}, {report['threads']} threads on {report['cpus']} CPUs, "
        f"images of {report['image_side']:,.0f} pixels to {report['input_side']}"
    )
    yield ""
    rows = [_row(name, timing) for name, timing in report["stages"].items()]
    if report["parse"] is not None:
        rows.insert(1, _row("  of it, parse", report["parse"]))  # reading comes first
    yield table(_HEADERS, [*rows, _row("all together", report["end_to_end"])])
    yield ""
    yield f"first batch after {report['first_batch_seconds']:.2f} s"
    if report["unusable"]:
        yield f"{report['unusable']} of the first {report['held']} samples cannot be used; see `clipctl data check`"
    yield from report["advice"]


def _row(name: str, timing: Mapping[str, Any]) -> tuple[str, ...]:
    speed = f"{size(timing['bytes_per_second'])}/s" if timing["bytes"] else ""
    return name, f"{timing['samples_per_second']:,.0f}", f"{timing['cpu_us_per_sample']:,.0f}", speed

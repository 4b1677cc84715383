"""`clipctl data stats`: a data set in figures, from its index."""

from __future__ import annotations

from clipctl.commands.data.options import IndexName, Url, progress_line
from clipctl.commands.options import Json


def stats(data: Url, name: IndexName = None, json: Json = False) -> None:
    """Say how many samples there are, how large, and what they have. Reads the index only."""
    from dataclasses import asdict

    from clip_trainer.data.check.stats import dataset_stats
    from clip_trainer.data.index.dataset import open_dataset
    from clipctl.bars import can_draw, terminal_width
    from clipctl.dataview import stats_lines
    from clipctl.output import say, say_json

    with progress_line() as progress:
        found = asdict(dataset_stats(open_dataset(data, name=name, check="none", progress=progress)))
    if json:
        say_json(found)
    else:
        say("\n".join(stats_lines(found, terminal_width(), blocks=can_draw())))

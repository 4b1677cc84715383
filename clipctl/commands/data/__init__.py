"""`clipctl data`: one module a command."""

from __future__ import annotations

from clipctl.commands.data.bench import bench
from clipctl.commands.data.check import check
from clipctl.commands.data.gather import gather
from clipctl.commands.data.index import index
from clipctl.commands.data.pack import pack
from clipctl.commands.data.reshard import reshard
from clipctl.commands.data.stats import stats
from clipctl.commands.data.verify import verify
from clipctl.commands.options import command_app

app = command_app("Gather, pack, index, verify and look at data sets.")
for command in (gather, pack, reshard, index, verify, stats, check, bench):
    app.command(command.__name__)(command)

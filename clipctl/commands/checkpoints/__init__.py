"""`clipctl checkpoints`: one module a command."""

from __future__ import annotations

from clipctl.commands.checkpoints.diff import diff
from clipctl.commands.checkpoints.export import export
from clipctl.commands.checkpoints.inspection import inspect
from clipctl.commands.checkpoints.ls import ls
from clipctl.commands.checkpoints.prune import prune
from clipctl.commands.checkpoints.verify import verify
from clipctl.commands.options import command_app

app = command_app("List, inspect, verify, compare, export and delete the checkpoints of a run.")
for command in (ls, inspect, verify, diff, export, prune):
    app.command(command.__name__)(command)

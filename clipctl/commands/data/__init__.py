"""`clipctl data`: one module a command."""

from __future__ import annotations

from clipctl.commands.data.index import index
from clipctl.commands.data.pack import pack
from clipctl.commands.data.verify import verify
from clipctl.commands.options import command_app

app = command_app("Pack, index and verify data sets.")
for command in (pack, index, verify):
    app.command(command.__name__)(command)

"""The command tree: a typer group that imports a command's module when that command is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from clipctl.cli import COMMANDS, usage
from clipctl.contract.errors import SpecError

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LazyGroup(TyperGroup):
    """Knows the names of all commands but loads only the one that runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build one command; None if there is none of this name."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command to run; a wrong name is answered with the nearest right one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else "See `clipctl -h`."
            raise SpecError(f"there is no command {args[0][:40]!a}.", hint=hint)
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: Any) -> str:
        """The static help, which needs no command's module."""
        return usage().rstrip("\n")


app = typer.Typer(
    name="clipctl",
    cls=LazyGroup,
    context_settings=CONTEXT_SETTINGS,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Train CLIP on Kubernetes or on this machine from one run.yaml."""


def load_command(name: str) -> Any:
    """The click-like command object of one command."""
    command = get_command(importlib.import_module(f"clipctl.commands.{name}").app)
    command.name = name
    command.short_help = COMMANDS[name]
    return command


def root_command() -> Any:
    """The whole tree."""
    return get_command(app)


def invoke(arguments: list[str]) -> int:
    """Run a command line; returns its exit status and raises whatever goes wrong."""
    result = root_command().main(args=arguments, prog_name="clipctl", standalone_mode=False)
    return result if isinstance(result, int) else 0

"""Options that several commands share, and the typer application of a single command."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON; errors too.")]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace of the run. Default: the one of the kubeconfig context."),
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig. Default: its current.")]
Local = Annotated[bool, typer.Option("--local", help="Only runs on this machine.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of the file, as train.steps=100. Repeatable."),
]
File = Annotated[str, typer.Argument(metavar="FILE", help="Path of the run.yaml.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the run.")]


def command_app(help_text: str | None = None) -> typer.Typer:
    """An empty typer application with the settings all commands share."""
    return typer.Typer(
        help=help_text,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )

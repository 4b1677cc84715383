"""`clipctl schema`."""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.options import Json, command_app

app = command_app()


@app.command()
def schema(
    values: Annotated[
        bool, typer.Option("--values", help="The schema of the values of the chart clip-run instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the JSON Schema of run.yaml (always JSON, so `--json` changes nothing but errors)."""
    from clipctl.schemas import run_schema, schema_text, values_schema

    print(schema_text(values_schema() if values else run_schema()), end="")

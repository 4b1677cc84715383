"""`clipctl convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from clipctl.commands.options import Json, command_app

app = command_app()


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def convert(
    command: Annotated[
        list[str],
        typer.Argument(metavar="-- COMMAND...", help="OpenCLIP's command line, or one file that holds it."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Write there; `-` prints.")] = "-",
    json: Json = False,
) -> None:
    """Write the run.yaml for an OpenCLIP training command, and say what differs.

    As in: clipctl convert -- torchrun --nproc_per_node 4 -m open_clip_train.main --model ViT-B-32 ...
    """
    from dataclasses import asdict

    from clipctl.contract.errors import SpecError
    from clipctl.convert.convert import convert as translate
    from clipctl.convert.convert import to_yaml
    from clipctl.convert.script import read_script, write_run_file
    from clipctl.output import say_json

    conversion = translate(read_script(command))
    if json:
        say_json(asdict(conversion))
    elif output == "-":
        print(to_yaml(conversion), end="")
    else:
        write_run_file(output, to_yaml(conversion))
        print("\n".join([*conversion.notes, f"written to {output}"]))
    if conversion.refused:
        raise SpecError(
            f"the command was not converted wholly: {' '.join(conversion.refused)}",
            hint="Change the command, or complete the run.yaml by hand.",
        )

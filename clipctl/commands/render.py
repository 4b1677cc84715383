"""`clipctl render`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipctl.commands.options import File, Json, Set, command_app

if TYPE_CHECKING:
    from clipctl.manifests import Manifest

app = command_app()


@app.command()
def render(
    file: File,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Write one file per object there; `-` prints them.")
    ] = "-",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the objects.")] = "default",
    values: Annotated[
        bool, typer.Option("--values", help="Print the values for `helm install` of charts/clip-run instead.")
    ] = False,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Print the Kubernetes objects of a run, for `kubectl apply` or review. Needs no cluster."""
    from clipctl.manifests import to_yaml
    from clipctl.output import say_json, say_manifest, say_manifest_json
    from clipctl.render import render as render_objects
    from clipctl.render import values_for
    from clipctl.specfile import load_spec

    spec = load_spec(file, set_ or ())
    if values:
        say_manifest_json(values_for(spec))
        return
    objects = render_objects(spec, namespace)
    if output != "-":
        written = _write(objects, output)
        say_json(written) if json else print("\n".join(written))
    elif json:
        say_manifest_json(objects)
    else:
        say_manifest(to_yaml(objects))


def _write(objects: list[Manifest], directory: str) -> list[str]:
    """Write the objects; files of an earlier rendering with other names are left alone."""
    from pathlib import Path

    from clipctl.contract.errors import CannotCreateError
    from clipctl.manifests import file_name, to_yaml

    target = Path(directory)
    written = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for item in objects:
            path = target / file_name(item)
            path.write_text(to_yaml([item]), encoding="utf-8")
            written.append(str(path))
    except OSError as error:
        raise CannotCreateError(f"cannot write to {directory}: {error.strerror or error}.") from error
    return written

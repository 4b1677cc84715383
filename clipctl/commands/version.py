"""`clipctl version`."""

from __future__ import annotations

from clipctl.commands.options import Json, command_app

app = command_app()


@app.command()
def version(json: Json = False) -> None:
    """Print the versions of clipctl, Python and the checkpoint format."""
    import sys

    from clipctl.contract.manifest import FORMAT_VERSION
    from clipctl.output import say, say_json
    from clipctl.version import version as installed

    python = ".".join(map(str, sys.version_info[:3]))
    if json:
        say_json({"clipctl": installed(), "python": python, "checkpoint_format": FORMAT_VERSION, "spec": 1})
    else:
        say(f"clipctl {installed()} (Python {python}, checkpoint format {FORMAT_VERSION})")

"""Command line of the test cluster: `python -m clip_testkit.cluster COMMAND`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from clip_testkit.cluster import binaries, lifecycle
from clip_testkit.cluster.settings import Settings, from_environment
from clipctl.contract.errors import ClipError


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m clip_testkit.cluster", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the binaries that the cache lacks; prints their paths")
    build.add_argument("targets", nargs="*", default=list(binaries.CLUSTER_TARGETS), metavar="TARGET")
    commands.add_parser("up", help="bring the cluster up; prints the path of its kubeconfig")
    commands.add_parser("down", help="stop the cluster; images and binaries stay cached")
    images = commands.add_parser("images", help="build the project's image and load it; prints its name")
    images.add_argument(
        "--torch",
        choices=["cpu-stub", "full"],
        default="cpu-stub",
        help="full: what PyPI gives (5 GB of CUDA); cpu-stub: the same torch with stubs for the CUDA libraries",
    )
    commands.add_parser("status", help="print what runs, as JSON")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    return top


def execute(arguments: argparse.Namespace, settings: Settings) -> None:
    """Run one command."""
    if arguments.command == "build":
        for path in binaries.build(settings, arguments.targets):
            print(path)
    elif arguments.command == "up":
        print(lifecycle.up(settings))
    elif arguments.command == "down":
        lifecycle.down(settings)
    elif arguments.command == "images":
        from clip_testkit.cluster.projectimage import build_and_load  # only here: it reads the installed distributions

        print(build_and_load(settings, arguments.torch))
    elif arguments.command == "status":
        print(json.dumps(lifecycle.status(settings), indent=2))
    else:
        print(lifecycle.external_kubeconfig(settings) or settings.kubeconfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and turn an error into one paragraph and its exit code."""
    arguments = parser().parse_args(argv)
    try:
        execute(arguments, from_environment())
    except ClipError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())

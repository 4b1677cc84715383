"""`python -m clip_trainer.coordinator`: the coordinator of a run's workers, in a process of its own.

It tells worker processes who trains with whom; see `clip_trainer.elastic.coordinator`. Kept apart from the workers, any
of which may die. It holds no state worth saving: workers that lose it train on, and tell its successor what they know.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from clip_trainer.elastic.coordinator_server import CoordinatorServer
from clip_trainer.elastic.orphan import ENV_PARENT, die_with_parent
from clipctl.contract.errors import ExitCode


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="clip_trainer.coordinator", description="Coordinator of a run's workers.")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")  # noqa: S104
    parser.add_argument("--port", type=int, default=29400, help="port; 0 takes a free one (default: 29400)")
    parser.add_argument("--port-file", type=Path, help="write the port to this file once the coordinator listens")
    options = parser.parse_args(arguments)
    if ENV_PARENT in os.environ:
        die_with_parent()
    try:
        server = CoordinatorServer(options.host, options.port)
    except (OSError, OverflowError) as error:
        print(f"the coordinator cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if options.port_file is not None:
        staged = options.port_file.with_name(options.port_file.name + ".new")
        staged.write_text(str(server.port))
        os.replace(staged, options.port_file)
    print(f"coordinator listens on {options.host}:{server.port}", flush=True)
    server.serve()
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())

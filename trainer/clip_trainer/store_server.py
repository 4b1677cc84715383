"""`python -m clip_trainer.store_server`: the rendezvous store, in a process of its own.

Agents meet at a c10d TCPStore. torchrun keeps it in worker 0, so losing that pod loses the run; kept apart, any
worker may die. It holds no state worth saving: agents that lose it keep training and meet again at its successor.

torch is imported whole (3 s, 0.5 GB). Loading `torch._C` below stand-in packages takes 0.6 s and 0.4 GB, but a
release of torch that dislikes it aborts the process, and nobody waits for this store: training goes on without it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from clip_trainer.elastic.orphan import ENV_PARENT, die_with_parent


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="clip_trainer.store_server", description="Rendezvous store of a run.")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")  # noqa: S104
    parser.add_argument("--port", type=int, default=29400, help="port; 0 takes a free one (default: 29400)")
    parser.add_argument("--port-file", type=Path, help="write the port to this file once the store listens")
    options = parser.parse_args(arguments)
    if ENV_PARENT in os.environ:
        die_with_parent()
    stop = {signal.SIGTERM, signal.SIGINT}
    # Blocked before torch starts threads, so that none of them takes the signal away from sigwait.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported conditionally

    try:
        store = TCPStore(options.host, options.port, None, True, wait_for_workers=False)
    except (RuntimeError, OSError) as error:
        print(f"rendezvous store cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 69
    if options.port_file is not None:
        staged = options.port_file.with_name(options.port_file.name + ".new")
        staged.write_text(str(store.port))
        os.replace(staged, options.port_file)
    print(f"rendezvous store listens on {options.host}:{store.port}", flush=True)
    signal.sigwait(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m clip_trainer.elastic.boot MODULE [ARGUMENT...]`: the first thing a worker process runs.

It ties the worker's life to the agent's before the slow imports begin, lights the beacon that the agent watches, makes
the worker dump all its stacks on SIGUSR1 (the agent asks for them before it kills a hung worker), then runs MODULE as
`__main__`.
"""

from __future__ import annotations

import faulthandler
import runpy
import signal
import sys

from clip_trainer.elastic.beacon import beacon_from_environment
from clip_trainer.elastic.orphan import die_with_parent


def main(arguments: list[str]) -> None:
    """Run the module named by the first of `arguments` as `__main__`, the rest being its own arguments."""
    die_with_parent()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    beacon_from_environment()
    module, *sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""One trainer process: `python -m clip_trainer.main CONFIG.json`, started by the launcher for each rank.

Ends with an exit code that says why (see `clipctl.contract.errors.ExitCode`), and with one paragraph instead of a
traceback for everything a user can cause or mend.
"""

from __future__ import annotations

import os
import sys
import traceback

import torch

from clip_trainer.config import RunConfig, load_config
from clip_trainer.elastic.beacon import beacon_from_environment
from clip_trainer.elastic.membership import ClosedError, membership_from_environment
from clip_trainer.train.generations import train_through_generations
from clip_trainer.train.group import alone
from clip_trainer.train.peer_loss import is_peer_loss, words
from clip_trainer.train.preemption import PreemptionNotice
from clipctl.contract.errors import ClipError, ExitCode
from clipctl.contract.redact import redact


def main(arguments: list[str]) -> int:
    """Run the trainer; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m clip_trainer.main CONFIG.json", file=sys.stderr)
        return ExitCode.USAGE
    notice = PreemptionNotice()
    notice.install()
    try:
        return _train(load_config(arguments[0]), notice)
    except ClosedError as error:
        print(f"{error}", file=sys.stderr, flush=True)
        return error.code
    except ClipError as error:
        print(redact(f"error: {error}"), file=sys.stderr, flush=True)
        return error.code
    except Exception as error:
        return _unexpected(error)


def _train(config: RunConfig, notice: PreemptionNotice) -> int:
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", str(config.spec.scale.devices_per_node)))
    beacon_from_environment()
    membership = membership_from_environment()
    try:
        group = alone(membership.local_rank, local_world, config.spec.scale.resources.gpu)
        train_through_generations(config, group, membership, notice)
    finally:
        membership.leave()
    return ExitCode.OK


def _unexpected(error: Exception) -> int:
    if is_peer_loss(error):
        print(redact(f"lost a peer: {words(error)}"), file=sys.stderr, flush=True)
        return ExitCode.TRY_AGAIN
    if isinstance(error, torch.OutOfMemoryError):
        print("error: the device is out of memory. Lower train.micro_batch; results do not change.", file=sys.stderr)
        return ExitCode.INTERNAL
    traceback.print_exc()
    print("error: this is a bug in clipctl; please report it with the lines above.", file=sys.stderr, flush=True)
    return ExitCode.INTERNAL


if __name__ == "__main__":
    # No interpreter shutdown: after a peer is lost, destroying the process group can hang until its timeout.
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

"""One trainer process: `python -m clip_trainer.main CONFIG.json`, started by the launcher for each rank.

Ends with an exit code that says why (see `clipctl.contract.errors.ExitCode`), and with one paragraph instead of a
traceback for everything a user can cause or mend.
"""

from __future__ import annotations

import os
import sys
import traceback

import torch

from clip_trainer.config import load_config
from clip_trainer.train.group import join_group, leave_group
from clip_trainer.train.loop import train
from clip_trainer.train.preemption import PreemptionNotice
from clip_trainer.train.run import prepare
from clipctl.contract.errors import ClipError, ExitCode
from clipctl.contract.redact import redact

# What gloo and NCCL say when a peer died. They raise plain RuntimeErrors, so the text is all there is.
_PEER_LOSS = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "connectfullmesh failed",
    "timed out waiting",
    "remote process exited",
    "socket closed",
    "read error",
    "write error",
    "application timeout",
    "nccl communicator was aborted",
)


def main(arguments: list[str]) -> int:
    """Run the trainer; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m clip_trainer.main CONFIG.json", file=sys.stderr)
        return ExitCode.USAGE
    notice = PreemptionNotice()
    notice.install()
    try:
        config = load_config(arguments[0])
        group = join_group(config.spec.scale.devices_per_node, config.spec.scale.resources.gpu)
        train(prepare(config, group), notice)
    except ClipError as error:
        print(redact(f"error: {error}"), file=sys.stderr, flush=True)
        return error.code
    except Exception as error:
        return _unexpected(error)
    leave_group()
    return ExitCode.OK


def is_peer_loss(error: BaseException) -> bool:
    """Whether an exception of a collective means that another rank is gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _PEER_LOSS)


def _unexpected(error: Exception) -> int:
    if is_peer_loss(error):
        print(redact(f"lost a peer: {str(error).splitlines()[0]}"), file=sys.stderr, flush=True)
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

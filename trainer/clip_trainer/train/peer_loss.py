"""Telling the loss of a peer from a bug: gloo and NCCL raise plain RuntimeErrors, so their text is all there is."""

from __future__ import annotations

import re

import torch

_PLACE = re.compile(r"^\[[^]]*\.(cc|cpp|h):\d+\] ?")
_SIGNS = (
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


def is_peer_loss(error: BaseException) -> bool:
    """Whether an exception of a collective means that another rank is gone."""
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


def words(error: BaseException) -> str:
    """The error in one line, without gloo's place in its source and its advice."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return _PLACE.sub("", line).partition(". This is typically")[0].strip().rstrip(".")

"""Options of the connections between workers and the coordinator."""

from __future__ import annotations

import socket

VANISHED_SECONDS = 5
"""After so many seconds without an answer from the other machine's kernel, a connection counts as broken."""


def prepare(end: socket.socket) -> None:
    """Send small lines at once, and notice within `VANISHED_SECONDS` that the other machine is gone.

    That is judged by the kernels: a process that is busy or stopped still has a machine that answers.
    """
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": 1,
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": VANISHED_SECONDS - 1,
        "TCP_USER_TIMEOUT": VANISHED_SECONDS * 1000,
    }
    for name, value in options.items():
        option = getattr(socket, name, None)  # not every system has every option
        if option is not None:
            end.setsockopt(socket.IPPROTO_TCP, option, value)

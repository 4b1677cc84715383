"""A child that cannot outlive its parent.

An agent that is killed with SIGKILL can no longer stop its workers: left alone they would go on training, write
checkpoints and hold the devices. The kernel does it instead.
"""

from __future__ import annotations

import ctypes
import os
import signal

ENV_PARENT = "CLIPCTL_PARENT_PID"
_PR_SET_PDEATHSIG = 1


def die_with_parent(expected: int | None = None) -> None:
    """Ask the kernel to SIGKILL this process when its parent ends (Linux; elsewhere it does nothing).

    Call it before anything slow. The parent may be gone already by then, which the kernel does not tell, so the
    parent's pid is compared too. Calling it again is harmless.

    Args:
        expected: pid of the parent that started us; default: `CLIPCTL_PARENT_PID`, unchecked if that is unset.
    """
    if expected is None:
        expected = int(os.environ.get(ENV_PARENT, "0")) or None
    _set_death_signal(signal.SIGKILL)
    if expected is not None and os.getppid() != expected:
        os.kill(os.getpid(), signal.SIGKILL)


def _set_death_signal(number: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    prctl = getattr(libc, "prctl", None)
    if prctl is None:  # not Linux
        return
    if prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))

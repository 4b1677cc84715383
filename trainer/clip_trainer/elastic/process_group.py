"""The torch process group of a generation.

Entering and leaving never wait for a dead peer: a store that goes away, a refused connection and a closed socket all
end in `PeerLostError`, and leaving closes this process's sockets at once, so that peers' collectives fail too.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # exported conditionally

from clip_trainer.elastic.group_sockets import Connection, connections, cut, listening_port, open_sockets
from clip_trainer.elastic.membership import Generation, PeerLostError

TRAINING_TIMEOUT = timedelta(minutes=11)
"""Longest wait for a peer while training: longer than a batch may be late (10 minutes, see `watchdog`). Who dies closes
its connections, who vanishes is missed by the coordinator, who hangs is killed by its launcher; all of that ends a wait
at once. What is left for the timeout are ranks that wait for each other in different collectives."""
COLLECTIVE_TIMEOUT = timedelta(seconds=30)
JOIN_TIMEOUT = timedelta(seconds=15)
"""Longest wait for peers that are in the generation's list but do not come."""
CONNECT_SECONDS = 5.0
"""Longest wait for a connection to the store. It listens before the generation is announced."""
_ONE_TRY = timedelta(seconds=0.5)


@dataclass
class _Entered:
    """The group this process is in, for the thread that may have to break it."""

    number: int
    backend: str
    sockets: list[Connection]
    broken: bool = False


_lock = threading.Lock()
_entered: _Entered | None = None
_newest_broken = 0
"""The highest number of a generation known to have lost a member, entered or not."""


def open_store(port: int = 0) -> tuple[object, int]:
    """Host a store for a process group on all addresses; returns it and its port. It lives as long as the object.

    Raises:
        PeerLostError: the port is taken.
    """
    try:
        store = TCPStore("0.0.0.0", port, None, True, wait_for_workers=False)  # noqa: S104
    except (RuntimeError, OSError) as error:
        raise PeerLostError(f"Cannot host the process group's store: {_first_line(error)}.") from error
    return store, int(store.port)


def enter(
    generation: Generation,
    device: torch.device,
    timeout: timedelta = COLLECTIVE_TIMEOUT,
    join_timeout: timedelta = JOIN_TIMEOUT,
) -> None:
    """Make the process group of `generation`: NCCL on a GPU, else gloo; none at all for a process alone.

    Args:
        generation: whose members meet.
        device: what this process computes on.
        timeout: longest duration of a collective afterwards.
        join_timeout: longest wait for the peers.

    Raises:
        PeerLostError: a peer did not come, or is gone already.
    """
    global _entered
    if generation.world == 1:
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _lock:
        if generation.number <= _newest_broken:
            raise PeerLostError(
                f"Generation {generation.number} lost a member before rank {generation.rank} entered it."
            )
        entered = _entered = _Entered(generation.number, backend, [])
    before = open_sockets()
    try:
        store = _connect(generation)
        store.set_timeout(join_timeout)
        # The number of groups so far is part of the store's keys, and it does not count alike in all processes: a
        # process that has just started has seen none, and torch keeps counting after an attempt that failed.
        dist.distributed_c10d._world.group_count = 0
        shared = PrefixStore(str(generation.number), store)
        dist.init_process_group(
            backend, store=shared, rank=generation.rank, world_size=generation.world, timeout=join_timeout
        )
        found = _group_connections(shared, generation, before) if backend == "gloo" else []
        set_timeout(device, timeout)
    except (RuntimeError, ValueError, OSError) as error:
        leave_group()
        peers = generation.world - 1
        raise PeerLostError(
            f"Rank {generation.rank} could not meet its {peers} peers: {_first_line(error)}."
        ) from error
    with _lock:
        entered.sockets = found
        too_late = entered.broken
    if too_late:
        leave_group()
        raise PeerLostError(f"A peer of rank {generation.rank} was lost while the group formed.")


def set_timeout(device: torch.device, timeout: timedelta) -> None:
    """Let collectives of the present group take so long from now on; nothing for a process alone."""
    if dist.is_initialized():
        dist.distributed_c10d._get_default_group()._get_backend(device)._set_default_timeout(timeout)


def leave_group() -> None:
    """Drop the process group without waiting for peers that may be dead; their collectives with us fail at once."""
    global _entered
    with _lock:
        entered, _entered = _entered, None
    if entered is not None:
        cut(entered.sockets)
    if not dist.is_initialized():
        return
    if entered is not None and entered.backend == "nccl" and entered.broken:
        with contextlib.suppress(RuntimeError):
            dist.distributed_c10d._abort_process_group()
            return
    dist.destroy_process_group()


def break_group(number: int) -> None:
    """Make every collective of generation `number` fail, also one that another thread is blocked in.

    For the thread that hears of a lost peer; does nothing if this process is in another generation. With NCCL the
    results of collectives in flight are garbage afterwards: ask `is_broken` before using them.
    """
    global _newest_broken
    with _lock:
        _newest_broken = max(_newest_broken, number)
        entered = _entered
        if entered is None or entered.number != number or entered.broken:
            return
        entered.broken = True
        cut(entered.sockets)
    if entered.backend == "nccl" and dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.distributed_c10d._get_default_group().abort()


def is_broken() -> bool:
    """Whether a peer of the current generation is known to be lost."""
    entered = _entered
    return entered is not None and entered.broken


def _connect(generation: Generation) -> TCPStore:
    """A client of the generation's store.

    torch repeats a refused connection until its time is over. Here it means that rank 0 is gone, or has heard that
    somebody else is, and that the generation will not come about.
    """
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        socket.create_connection((generation.host, generation.port), CONNECT_SECONDS).close()
        try:
            return TCPStore(generation.host, generation.port, None, False, timeout=_ONE_TRY)
        except RuntimeError:
            if generation.number <= _newest_broken or time.monotonic() > deadline:
                raise


def _group_connections(store: Any, generation: Generation, before: dict[int, str]) -> list[Connection]:
    """This rank's gloo connections. The ports tell them from connections that other threads opened meanwhile."""
    store.set(f"listens/{generation.rank}", str(listening_port(before)))
    return connections(before, [int(store.get(f"listens/{rank}")) for rank in range(generation.world)])


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")

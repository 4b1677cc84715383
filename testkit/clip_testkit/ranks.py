"""Run a function on several gloo ranks, each a real process, and collect what they return.

Processes fork from a server that has imported torch once, so a rank starts in milliseconds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
PRELOAD = (
    "torch",
    "torch.distributed",
    "torch._dynamo",  # 5 CPU-seconds, which the first optimiser of a process costs otherwise
    "matplotlib.backends.backend_agg",
    "clip_trainer.main",
)
"""What the server imports before the first rank is forked from it."""

_MEETINGS = 4
_MEETING_TIMEOUT = timedelta(seconds=60)
_TIMEOUT_S = 200.0  # ranks share few slow cores with other tests


def run_ranks(world: int, folder: Path, function: Callable[..., Result], *arguments: object) -> list[Result]:
    """Call `function(rank, *arguments)` on each of `world` ranks of one process group.

    Args:
        world: number of ranks.
        folder: an empty folder for their rendezvous file.
        function: importable by name from a fresh interpreter.
        arguments: picklable.

    Returns:
        The results, by rank.

    Raises:
        RuntimeError: a rank failed or did not answer.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, __name__])
    rendezvous = str(folder / "rendezvous")
    ends: list[Connection] = []
    processes = []
    for rank in range(world):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_rank_main, args=(there, rank, world, rendezvous, function, arguments))
        process.start()
        there.close()
        ends.append(here)
        processes.append(process)
    try:
        return [_receive(end, rank) for rank, end in enumerate(ends)]
    finally:
        for process in processes:
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()


def _receive(end: Connection, rank: int) -> Result:  # type: ignore[type-var]
    if not end.poll(_TIMEOUT_S):
        raise RuntimeError(f"rank {rank} did not answer within {_TIMEOUT_S} s")
    try:
        error, result = end.recv()
    except EOFError:
        raise RuntimeError(f"rank {rank} died") from None
    if error is not None:
        raise RuntimeError(f"rank {rank} failed: {error}")
    return result  # type: ignore[no-any-return]


def _rank_main(
    end: Connection,
    rank: int,
    world: int,
    rendezvous: str,
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    """Body of one process."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    meet(rendezvous, rank, world)
    try:
        end.send((None, function(rank, *arguments)))
    except Exception as error:
        end.send((repr(error), None))
    finally:
        dist.destroy_process_group()


def meet(file: str, rank: int, world: int) -> None:
    """Make the default process group of `world` ranks; again if gloo fails to connect them.

    On a busy machine a connection among processes that are all well is sometimes closed while the others are made.

    Args:
        file: path that all ranks name and that does not exist yet.
        rank: of this process.
        world: number of ranks.

    Raises:
        RuntimeError: all attempts failed.
    """
    import torch.distributed as dist
    from torch.distributed import FileStore, PrefixStore  # type: ignore[attr-defined]  # exported conditionally

    store = FileStore(file, world)
    # Nobody begins before all are there: an attempt is to last as long as connecting does, not as the work before it.
    store.set(f"here-{rank}", "1")
    for peer in range(world):
        store.get(f"here-{peer}")
    for attempt in range(_MEETINGS):
        met = b"1"
        try:
            own = PrefixStore(f"attempt-{attempt}", store)
            dist.init_process_group("gloo", store=own, rank=rank, world_size=world, timeout=_MEETING_TIMEOUT)
        except RuntimeError:
            met = b"0"
        store.set(f"met-{attempt}-{rank}", met.decode())
        if all(store.get(f"met-{attempt}-{peer}") == b"1" for peer in range(world)):
            return
        if dist.is_initialized():
            dist.destroy_process_group()
    raise RuntimeError(f"rank {rank} could not meet the others in {_MEETINGS} attempts")

"""Run a function on several gloo ranks, each a real process, and collect what they return.

Processes fork from a server that has imported torch once, so a rank starts in milliseconds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
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

_TIMEOUT_S = 60.0


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
    rendezvous = f"file://{folder / 'rendezvous'}"
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
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    try:
        end.send((None, function(rank, *arguments)))
    except Exception as error:
        end.send((repr(error), None))
    finally:
        dist.destroy_process_group()

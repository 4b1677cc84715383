"""Meeting the other agents: torch's c10d rendezvous, with its many errors reduced to the three that matter.

`TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` is enforced here. Without it torch reuses the first round's store for the workers
of every later round; a restarted group then waits for addresses of dead processes (measured: most restarts hang, and
a node that joins later never completes).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Protocol

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # exported conditionally
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _RendezvousExitOp, create_handler

from clip_trainer.elastic.settings import LaunchSettings

_LEAVE_SECONDS = 2.0


class StoreLostError(Exception):
    """The rendezvous store does not answer; a new one may come up at the same address."""


class ClosedError(Exception):
    """The group is over: it finished, or one agent found a permanent error."""


class NotEnoughNodesError(Exception):
    """Too few nodes came within the join timeout."""


@dataclass(frozen=True)
class Round:
    """This node's place in one round: its rank, the number of nodes, and where the workers' own store will be."""

    node_rank: int
    nodes: int
    master_address: str
    master_port: int


class Meeting(Protocol):
    """A place where agents form groups. Every method may raise `StoreLostError`."""

    def join(self) -> Round:
        """Wait for the next round and enter it. Raises `ClosedError`, `NotEnoughNodesError`."""
        ...

    def someone_waits(self) -> bool:
        """Whether a node wants in: everybody has to leave the round and join the next one."""
        ...

    def is_closed(self) -> bool:
        """Whether the group is over."""
        ...

    def mark_finished(self) -> None:
        """Tell the others that this node's workers have finished."""
        ...

    def all_finished(self) -> bool:
        """Whether the workers of all nodes of the round have finished."""
        ...

    def close(self, code: int) -> None:
        """End the group for everybody with exit code `code`; the first one to close decides."""
        ...

    def verdict(self) -> int | None:
        """The exit code the group was closed with; None if nobody said."""
        ...

    def leave(self) -> None:
        """Give up our place at once instead of being missed later."""
        ...


class C10dMeeting:
    """`Meeting` on a TCPStore.

    Raises (constructor): `StoreLostError` if the store cannot be reached.
    """

    def __init__(self, settings: LaunchSettings) -> None:
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        own_store = not settings.endpoint
        parameters = RendezvousParameters(
            backend="c10d",
            endpoint=settings.endpoint or "127.0.0.1:0",
            run_id=settings.rendezvous_id,
            min_nodes=settings.min_nodes,
            max_nodes=settings.max_nodes,
            local_addr=settings.local_address or ("127.0.0.1" if own_store else None),
            **{**settings.rendezvous, **({"is_host": "1"} if own_store else {})},
        )
        try:
            backend, store = create_backend(parameters)
        except RendezvousConnectionError as error:
            raise StoreLostError(_first_line(error)) from error
        self._handler = create_handler(store, backend, parameters)
        self._outside = PrefixStore(f"clipctl/{settings.rendezvous_id}", store)
        self._inside: Store | None = None
        self._round: Round | None = None

    def join(self) -> Round:
        """See `Meeting.join`."""
        try:
            info = self._handler.next_rendezvous()
            self._inside, self._round = info.store, _round(info)
        except (RendezvousClosedError, RendezvousGracefulExitError) as error:
            raise ClosedError from error
        except RendezvousTimeoutError as error:
            raise NotEnoughNodesError from error
        except (RendezvousConnectionError, RendezvousStateError, RuntimeError) as error:
            # RuntimeError: torch's store errors; they come when rank 0 dies before it has published its address.
            raise StoreLostError(_first_line(error)) from error
        return self._round

    def someone_waits(self) -> bool:
        """See `Meeting.someone_waits`; asks the store at most once a second."""
        try:
            return bool(self._handler.num_nodes_waiting())
        except (RendezvousConnectionError, RendezvousStateError) as error:
            raise StoreLostError(_first_line(error)) from error

    def is_closed(self) -> bool:
        """See `Meeting.is_closed`; asks the store at most once a second."""
        try:
            return bool(self._handler.is_closed())
        except (RendezvousConnectionError, RendezvousStateError) as error:
            raise StoreLostError(_first_line(error)) from error

    def mark_finished(self) -> None:
        """See `Meeting.mark_finished`."""
        assert self._inside is not None
        assert self._round is not None
        try:
            self._inside.set(f"finished/{self._round.node_rank}", "1")
        except RuntimeError as error:
            raise StoreLostError(_first_line(error)) from error

    def all_finished(self) -> bool:
        """See `Meeting.all_finished`."""
        assert self._inside is not None
        assert self._round is not None
        try:
            return bool(self._inside.check([f"finished/{rank}" for rank in range(self._round.nodes)]))
        except RuntimeError as error:
            raise StoreLostError(_first_line(error)) from error

    def close(self, code: int) -> None:
        """See `Meeting.close`."""
        try:
            self._outside.compare_set("verdict", "", str(code))
            self._handler.set_closed()
        except (RendezvousConnectionError, RendezvousStateError, RendezvousTimeoutError, RuntimeError) as error:
            raise StoreLostError(_first_line(error)) from error

    def verdict(self) -> int | None:
        """See `Meeting.verdict`."""
        try:
            # Asked first, because `get` would wait for the key to come.
            return int(self._outside.get("verdict")) if self._outside.check(["verdict"]) else None
        except RuntimeError as error:
            raise StoreLostError(_first_line(error)) from error

    def leave(self) -> None:
        """See `Meeting.leave`. torch has no public call for it; it saves the others 2 s of missed heartbeats."""
        self._handler._stop_heartbeats()
        try:
            self._handler._op_executor.run(_RendezvousExitOp(), time.monotonic() + _LEAVE_SECONDS)
        except (RendezvousError, RuntimeError) as error:
            raise StoreLostError(_first_line(error)) from error


def _round(info: RendezvousInfo) -> Round:
    bootstrap = info.bootstrap_store_info
    assert bootstrap is not None  # because TORCH_DISABLE_SHARE_RDZV_TCP_STORE is set
    return Round(info.rank, info.world_size, bootstrap.master_addr, int(bootstrap.master_port))


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]

"""The group of ranks that trains together: set-up, and the few collectives that are not about gradients.

Control messages travel as JSON in byte tensors: the object collectives of `torch.distributed` would unpickle what a
peer sent.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from clip_trainer.elastic.beacon import current as beacon
from clipctl.contract.errors import ClipError, error_from_code

COLLECTIVE_TIMEOUT = timedelta(seconds=15)
"""Longest wait for a peer in one collective until the ranks have agreed on the state. A peer that dies closes its
connections, which ends the wait at once. See `process_group.TRAINING_TIMEOUT` for later."""
_KEEP_ALIVE_SECONDS = 5.0
_STILL_AT_IT = {"still": "at it"}
_EXCHANGED_AT_ONCE = 32 << 20  # bytes: bounds the copy on the device
_BUCKET_ELEMENTS = 1 << 23  # 32 MiB of fp32: big enough to be bandwidth-bound, small enough to bound the copy


Call = TypeVar("Call", bound=Callable[..., Any])


def _waits_for_peers(method: Call) -> Call:
    """Mark a collective in the beacon: whoever waits for a peer does not hang itself."""

    @functools.wraps(method)
    def marked(*arguments: Any, **options: Any) -> Any:
        with beacon().waiting_for_peers():
            return method(*arguments, **options)

    return cast(Call, marked)


@dataclass
class Group:
    """This process's place among the ranks, and the device it computes on.

    One object for the life of the process: when the group changes, `become` changes rank and world, and whoever holds
    the object sees the new ones. Nobody may keep copies of them beyond a step.
    """

    rank: int
    world: int
    local_rank: int
    device: torch.device
    _action: Future[dict[str, Any]] | None = field(default=None, init=False, repr=False, compare=False)

    def become(self, rank: int, world: int) -> None:
        """Take another place, once an action that the old group gave up on has ended."""
        if self._action is not None:
            wait([self._action])
            self._action = None
        self.rank, self.world = rank, world

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that talks to storage for all."""
        return self.rank == 0

    @_waits_for_peers
    def broadcast_json(self, value: Any, source: int = 0) -> Any:
        """The `value` of rank `source` on every rank. Other ranks pass anything."""
        if self.world == 1:
            return value
        mine = self.rank == source
        payload = self._bytes(value if mine else None)
        size = torch.tensor([payload.numel()], dtype=torch.int64, device=self.device)
        dist.broadcast(size, src=source)
        if not mine:
            payload = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        dist.broadcast(payload, src=source)
        return json.loads(payload.cpu().numpy().tobytes())

    @_waits_for_peers
    def gather_json(self, value: Any) -> list[Any]:
        """Every rank's `value`, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        payload = self._bytes(value)
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([payload.numel()], dtype=torch.int64, device=self.device))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8, device=self.device)
        padded[: payload.numel()] = payload
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        texts = (part[: int(size)].cpu().numpy().tobytes() for part, size in zip(parts, sizes, strict=True))
        return [json.loads(text) for text in texts]

    def on_first(self, action: Callable[[], Any]) -> Any:
        """Do `action` on rank 0 only; every rank returns its JSON result, or raises its `ClipError`.

        Without this the others would wait in a collective for a rank 0 that has already failed. Reading a checkpoint
        or building an index may take minutes, a collective at most `COLLECTIVE_TIMEOUT`: so rank 0 works in a thread
        and tells the others every few seconds that it is still at it.
        """
        outcome = self._attempt(action) if self.world == 1 else self._attempt_while_others_wait(action)
        if "error" in outcome:
            problem, hint, code = outcome["error"]
            raise error_from_code(problem, hint, code)
        return outcome["value"]

    def on_each(self, action: Callable[[], Any]) -> list[Any]:
        """Do `action` on every rank, however long each takes; every rank returns all JSON results, in rank order.

        Raises:
            ClipError: the first failure, on every rank, naming the rank.
        """
        outcomes = self.gather_json(self._attempt(action) if self.world == 1 else self._attempt_together(action))
        for rank, outcome in enumerate(outcomes):
            if "error" in outcome:
                problem, hint, code = outcome["error"]
                raise error_from_code(f"rank {rank}: {problem}", hint, code)
        return [outcome["value"] for outcome in outcomes]

    def _attempt_together(self, action: Callable[[], Any]) -> dict[str, Any]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="every-rank")
        try:
            self._action = future = pool.submit(self._attempt, action)
            while True:
                busy = bool(wait([future], timeout=_KEEP_ALIVE_SECONDS).not_done)
                if not self.sum(torch.tensor([int(busy)], device=self.device)).item():
                    return future.result()
        finally:
            pool.shutdown(wait=False)

    def _attempt_while_others_wait(self, action: Callable[[], Any]) -> dict[str, Any]:
        if not self.is_first:
            while (outcome := self.broadcast_json(None)) == _STILL_AT_IT:
                pass
            return dict(outcome)
        pool = ThreadPoolExecutor(1, thread_name_prefix="rank-0")
        try:
            self._action = future = pool.submit(self._attempt, action)
            while wait([future], timeout=_KEEP_ALIVE_SECONDS).not_done:
                self.broadcast_json(_STILL_AT_IT)
            return dict(self.broadcast_json(future.result()))
        finally:
            pool.shutdown(wait=False)  # after the loss of a peer, nobody needs the result

    @staticmethod
    def _attempt(action: Callable[[], Any]) -> dict[str, Any]:
        try:
            return {"value": action()}
        except ClipError as error:
            return {"error": [error.problem, error.hint, int(error.code)]}

    @_waits_for_peers
    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` summed over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    @_waits_for_peers
    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum the gradients over the ranks, in place, in buckets.

        The loss of each rank is its share of the full-batch loss, so the sum *is* the full-batch gradient, also when
        ranks have different numbers of samples.
        """
        if self.world == 1:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            at = 0
            for gradient in bucket:
                gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
                at += gradient.numel()

    @_waits_for_peers
    def broadcast_tensors(self, tensors: Iterable[torch.Tensor], source: int = 0) -> None:
        """Make every rank's tensors equal to those of rank `source`, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=source)

    @_waits_for_peers
    def exchange(self, sends: Sequence[tuple[torch.Tensor, int]], receives: Sequence[tuple[torch.Tensor, int]]) -> None:
        """Send bytes to other ranks while receiving from others. Each of them must take part with the other ends.

        Args:
            sends: tensors [bytes] in host memory, and who gets them.
            receives: tensors [bytes] in host memory that are filled, and from whom; at most one a rank.
        """
        longest = max((tensor.numel() for tensor, _ in (*sends, *receives)), default=0)
        for at in range(0, longest, _EXCHANGED_AT_ONCE):
            window = slice(at, at + _EXCHANGED_AT_ONCE)
            outgoing = [(tensor[window].to(self.device), peer) for tensor, peer in sends if at < tensor.numel()]
            targets = [(tensor[window], peer) for tensor, peer in receives if at < tensor.numel()]
            incoming = [(self._landing(target), peer) for target, peer in targets]
            operations = [dist.P2POp(dist.irecv, tensor, peer) for tensor, peer in incoming]
            operations += [dist.P2POp(dist.isend, tensor, peer) for tensor, peer in outgoing]
            for work in dist.batch_isend_irecv(operations) if operations else ():
                work.wait()
            if self.device.type != "cpu":
                for (target, _), (tensor, _) in zip(targets, incoming, strict=True):
                    target.copy_(tensor)

    def _landing(self, target: torch.Tensor) -> torch.Tensor:
        """Where bytes for `target` arrive: there, or on the device if that is what peers reach."""
        return target if self.device.type == "cpu" else torch.empty_like(target, device=self.device)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            self.sum(torch.zeros(1, device=self.device))

    def _bytes(self, value: Any) -> torch.Tensor:
        return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)


def alone(local_rank: int, local_world: int, gpus: int) -> Group:
    """This process on its device, not in any group yet.

    Args:
        local_rank: number among the ranks of this node.
        local_world: ranks of this node, which share its cores.
        gpus: of the node; 0: it computes on the CPU.
    """
    device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    else:
        _share_cores(local_world)
    return Group(0, 1, local_rank, device)


def _share_cores(processes: int) -> None:
    """Divide the cores among the ranks of this node, unless OMP_NUM_THREADS decides."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // processes))


def _buckets(gradients: list[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.numel() > _BUCKET_ELEMENTS or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        yield bucket

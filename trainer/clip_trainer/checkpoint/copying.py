"""Copying a share of the state into host memory, while training goes on where that is safe.

Between two changes of the weights by the optimiser the state stands still, so the copy may run beside the next forward
and backward pass. The exception are running statistics, which a forward pass changes: small tensors among the weights,
whatever they are, are copied at once. `finish_before_update` is the barrier that whoever changes the state has to pass.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from clip_trainer.checkpoint.objects import PlacedTensor, PlannedObject
from clip_trainer.checkpoint.tensors import WEIGHTS, Tensors
from clip_trainer.parallel.pieces import local
from clipctl.contract.errors import InternalError
from clipctl.contract.failpoints import failpoint

AT_ONCE_BYTES = 256 << 10
"""Tensors up to this size are copied at once: larger ones are never running statistics (65,536 channels)."""


@dataclass(frozen=True)
class _Pair:
    """A live tensor, or this rank's rows of one, and where in the buffer it goes."""

    source: torch.Tensor
    at: int
    placed: PlacedTensor


class ShareCopy:
    """The copy of one share.

    The constructor runs on the thread that trains; it copies what is small, and hands what is on a GPU to a stream of
    its own. `run` copies the rest and belongs on another thread.

    Args:
        parts: the live state.
        objects: the layout of the share.
        buffer: host memory [bytes] for all objects.
    """

    def __init__(self, parts: Mapping[str, Tensors], objects: Sequence[PlannedObject], buffer: torch.Tensor) -> None:
        self._done = threading.Event()
        self._cancelled = False
        self._buffer = buffer
        self._rest: list[_Pair] = []
        self._gpu_done: torch.cuda.Event | None = None
        gpu: list[_Pair] = []
        on_gpu = False
        with torch.no_grad():
            for planned in objects:
                start = planned.at + len(planned.header)
                buffer[planned.at : start].copy_(torch.frombuffer(bytearray(planned.header), dtype=torch.uint8))
                for placed in planned.tensors:
                    pair = _Pair(local(parts[planned.part][placed.name]).detach(), planned.at, placed)
                    on_gpu |= pair.source.is_cuda
                    if planned.part == WEIGHTS and pair.source.nbytes <= AT_ONCE_BYTES:
                        self._copy(pair)
                    else:
                        (gpu if pair.source.is_cuda else self._rest).append(pair)
            self._gpu_done = self._copy_beside(gpu) if on_gpu else None
        if not self._rest and self._gpu_done is None:
            self._done.set()

    def run(self) -> None:
        """Copy what is left; always opens the barrier in the end.

        Raises:
            InternalError: the copy could not be made.
        """
        try:
            with torch.no_grad():
                for pair in self._rest:
                    if self._cancelled:
                        return
                    self._copy(pair)
            failpoint("checkpoint.staged")
            if self._gpu_done is not None:
                self._gpu_done.synchronize()
        except RuntimeError as error:
            raise InternalError(f"the state could not be copied for its checkpoint: {error}.") from error
        finally:
            self._rest = []
            self._done.set()

    def cancel(self) -> None:
        """Let `run` end early; the copy is not needed any more."""
        self._cancelled = True

    def finish_before_update(self) -> None:
        """Wait until the state may be changed. On a GPU the stream waits, not this thread."""
        if self._gpu_done is not None:
            torch.cuda.current_stream().wait_event(self._gpu_done)
            if not self._rest:
                return
        self._done.wait()

    def _copy(self, pair: _Pair) -> None:
        raw = self._buffer[pair.at + pair.placed.start : pair.at + pair.placed.stop]
        target = raw.view(pair.placed.extent.dtype).view(pair.placed.extent.shape)
        target.copy_(pair.source, non_blocking=pair.source.is_cuda)

    def _copy_beside(self, pairs: Sequence[_Pair]) -> torch.cuda.Event:
        """Begin copies from a GPU on a stream beside the one that computes; the event says when they are done.

        Small tensors went on the computing stream itself, for which the new one waits first.
        """
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for pair in pairs:
                self._copy(pair)
                pair.source.record_stream(side)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(side)
        return event

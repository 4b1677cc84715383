"""The host memory a checkpoint is copied into before it is stored: taken once, touched before it is needed.

The first touch of a page costs many times what a copy into it costs. So the buffer stays for the whole run, and
`prepare` lets a thread touch it while training begins.
"""

from __future__ import annotations

import threading

import torch

_TOUCHED_AT_ONCE = 16 << 20


class Staging:
    """One flat buffer that only grows.

    Args:
        pinned: page-locked, so that a GPU copies into it by itself.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        self._pinned = pinned
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._toucher: threading.Thread | None = None

    @property
    def capacity(self) -> int:
        """Bytes."""
        return self._buffer.numel()

    def prepare(self, size: int) -> None:
        """Begin to make room for `size` bytes in the background, and to touch it; not while a save is in flight."""
        if size > self.capacity and self._toucher is None:
            self._toucher = threading.Thread(target=self._touch, args=(size,), name="checkpoint-staging", daemon=True)
            self._toucher.start()

    def room(self, size: int) -> torch.Tensor:
        """The first `size` bytes of the buffer [size], with what was there before."""
        if self._toucher is not None:
            self._toucher.join()
            self._toucher = None
        if size > self.capacity:
            self._buffer = self._empty(size)  # touched by whoever fills it, which need not be this thread
        return self._buffer[:size]

    def _touch(self, size: int) -> None:
        buffer = self._empty(size)
        for at in range(0, size, _TOUCHED_AT_ONCE):
            buffer[at : at + _TOUCHED_AT_ONCE].zero_()
        self._buffer = buffer

    def _empty(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)

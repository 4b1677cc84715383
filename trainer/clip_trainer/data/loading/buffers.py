"""Memory for the images of batches, used again and again.

A fresh batch of some megabytes costs thousands of page faults. So memory that nobody looks at any more is handed out
again: every batch is made of a *lease* on its memory, an array that all tensors of the batch (slices, views, what
autograd keeps) hold on to. When the last of them is gone the lease is, and only that returns the memory; there is no
call to forget, and none that could come too early.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

Memory = npt.NDArray[np.uint8]


class BatchBuffers:
    """Hands out image tensors.

    The pixels lie as decoders leave them and as GPUs like them: all channels of a pixel together (`channels_last`).

    Args:
        samples: the most in a batch.
        image_size: height and width.
        keep: pieces of memory that are kept for later; more can be out at the same time.
        pinned: page-locked memory, from which a GPU copies by itself. torch's allocator hands it out then: it reuses
            memory too, and knows of copies that are still under way.
        on_bytes: told about memory that was taken from the system (positive) or given back (negative).
    """

    def __init__(
        self,
        samples: int,
        image_size: tuple[int, int],
        *,
        keep: int,
        pinned: bool = False,
        on_bytes: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._shape = (samples, *image_size, 3)
        self._keep, self._pinned, self._on_bytes = keep, pinned, on_bytes
        self._lock = threading.RLock()  # a lease may end, by garbage collection, in the thread that holds the lock
        self._free: list[Memory] = []

    @property
    def batch_bytes(self) -> int:
        """Bytes of one batch."""
        return int(np.prod(self._shape))

    def take(self, samples: int) -> torch.Tensor:
        """Images of undefined content: uint8 [samples, 3, height, width], channels last in memory."""
        assert samples <= self._shape[0], f"{samples} samples in a buffer for {self._shape[0]}"
        return (self._page_locked if self._pinned else self._leased)(samples).permute(0, 3, 1, 2)

    def _leased(self, samples: int) -> torch.Tensor:
        with self._lock:
            memory = self._free.pop() if self._free else None
        if memory is None:
            memory = np.empty(self._shape, np.uint8)
            self._on_bytes(memory.nbytes)
        lease = memory[:samples]
        weakref.finalize(lease, self._give_back, memory).atexit = False
        return torch.from_numpy(lease)

    def _give_back(self, memory: Memory) -> None:
        with self._lock:
            kept = len(self._free) < self._keep
            if kept:
                self._free.append(memory)
        if not kept:
            self._on_bytes(-memory.nbytes)

    def _page_locked(self, samples: int) -> torch.Tensor:
        images = torch.empty((samples, *self._shape[1:]), dtype=torch.uint8, pin_memory=True)
        self._on_bytes(images.nbytes)
        weakref.finalize(images.untyped_storage(), self._on_bytes, -images.nbytes).atexit = False
        return images

"""Random numbers for initial weights: one stream a tensor.

The weights do not depend on the order of construction, on the device, or on which ranks hold which part of the model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Streams:
    """Fills tensors; nothing happens to those on the meta device."""

    seed: int
    """Any integer."""

    def key(self, name: str) -> int:
        """A 63-bit number for what is called `name`, different for every name and seed."""
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1

    def generator(self, name: str) -> Generator:
        """The random stream of the parameter called `name`."""
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        return Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))

    def normal(self, tensor: Tensor, std: float, name: str) -> None:
        """Fill with a normal distribution around 0.

        Args:
            tensor: any shape, any device.
            std: standard deviation.
            name: of the parameter, from the root of the model.
        """
        if not tensor.is_meta:
            self.copy(tensor, torch.empty(tensor.shape).normal_(0.0, std, generator=self.generator(name)))

    def uniform(self, tensor: Tensor, bound: float, name: str) -> None:
        """Fill with a uniform distribution over [-bound, bound] (see `normal`)."""
        if not tensor.is_meta:
            self.copy(tensor, torch.empty(tensor.shape).uniform_(-bound, bound, generator=self.generator(name)))

    def copy(self, tensor: Tensor, values: Tensor) -> None:
        """Fill with given values."""
        if not tensor.is_meta:
            with torch.no_grad():
                tensor.copy_(values)

    def fill(self, tensor: Tensor, value: float) -> None:
        """Fill with one value."""
        if not tensor.is_meta:
            with torch.no_grad():
                tensor.fill_(value)

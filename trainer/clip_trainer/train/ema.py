"""The exponential moving average of the weights (Polyak and Juditsky 1992), for evaluation and export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clip_trainer.checkpoint.tensors import Tensors, copy_into
from clipctl.contract.errors import CorruptError
from clipctl.contract.sections import EmaSection


class WeightAverage:
    """Averages every floating-point tensor of the model's state, batch-norm statistics included; copies the others.

    The average is kept in fp32 at least: a share of 1e-4 of a change would vanish in bf16.

    Args:
        model: what to average; the average begins as a copy of it.
        section: `train.ema` of run.yaml.
    """

    def __init__(self, model: nn.Module, section: EmaSection) -> None:
        self._model = model
        self._section = section
        self._average: Tensors = {name: _widened(tensor) for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step` (from 1), if an update is due."""
        if step % self._section.every_steps:
            return
        for name, tensor in self._model.state_dict().items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(tensor.to(average.dtype), 1 - self._section.decay)
            else:
                average.copy_(tensor)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again as a copy of the model."""
        for name, tensor in self._model.state_dict().items():
            self._average[name].copy_(tensor)

    def tensors(self) -> Tensors:
        """The average by name, live."""
        return self._average

    def load(self, tensors: Tensors) -> None:
        """Take over a stored average.

        Raises:
            CorruptError: it is of another model.
        """
        problems = copy_into(self._average, tensors)
        if problems:
            raise CorruptError(f"the stored average of the weights does not fit the model: {'; '.join(problems[:3])}.")

    def state_dict(self) -> Tensors:
        """The average in the types of the model's weights, for export."""
        return {name: self._average[name].to(tensor.dtype) for name, tensor in self._model.state_dict().items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside the context, and exactly its own again afterwards."""
        own = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        try:
            copy_into(self._model.state_dict(), self._average)
            yield
        finally:
            copy_into(self._model.state_dict(), own)


def _widened(tensor: Tensor) -> Tensor:
    low = tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize
    return tensor.detach().to(torch.float32 if low else tensor.dtype, copy=True)

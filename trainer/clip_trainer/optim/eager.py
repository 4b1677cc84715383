"""Optimisers of torch without the wrappers that import `torch._dynamo` on first use.

The wrappers keep the compiler out of the optimiser, which nobody compiles here, and the import costs over 5 CPU-seconds
(torch 2.15): at every start of a worker, and so in every recovery. `inspect.unwrap` gives back what torch wrote.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


def eager(cls: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """A subclass of `cls` with the same arithmetic that never imports the compiler."""
    members: dict[str, Any] = {
        "__doc__": cls.__doc__,
        "__module__": __name__,
        "add_param_group": inspect.unwrap(cls.add_param_group),
        "zero_grad": inspect.unwrap(cls.zero_grad),
        "step": torch.no_grad()(inspect.unwrap(cls.step)),
    }
    return type(cls.__name__, (cls,), members)

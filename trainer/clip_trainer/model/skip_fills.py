"""Building modules of other libraries on the meta device quickly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_FILLS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.clamp_, Tensor.mul_, Tensor.add_})


class SkipFills(TorchFunctionMode):
    """Skips the in-place arithmetic of weight initialisation on tensors without storage.

    It has no effect there, but goes through torch's Python decompositions: their import costs 4 CPU-seconds, and 60
    models of timm half a minute.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Intercept one call."""
        if func in _FILLS and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))

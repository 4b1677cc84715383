"""The state of any optimiser by parameter name: tensors for safetensors files, single numbers as JSON.

Nothing here knows an optimiser. What it keeps for a parameter may be tensors, numbers, truth values, texts or None;
counters that some keep for a whole group are in `_COUNTERS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.parallel.pieces import like
from clipctl.contract.digest import canonical_json, sha256_hex
from clipctl.contract.errors import SpecError

_COUNTERS = ("step", "lookahead_step")
_PLAIN = "plain"


@dataclass(frozen=True)
class OptimizerState:
    """A copy-free view of an optimiser's state.

    Attributes:
        tensors: `<key>.<parameter name>` -> tensor with at least one dimension.
        numbers: everything else, as JSON.
    """

    tensors: Tensors
    numbers: dict[str, Any]


def collect(optimizer: torch.optim.Optimizer, name: str) -> OptimizerState:
    """The state of an optimiser whose parameter groups carry `names`.

    Args:
        optimizer: the optimiser.
        name: its name in run.yaml; a checkpoint can only be loaded into an optimiser of the same name.

    Raises:
        SpecError: it keeps something that cannot be stored.
    """
    tensors: Tensors = {}
    single: dict[tuple[str, str], dict[str, Any]] = {}
    for parameter_name, parameter, _ in _parameters(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.ndim:
                tensors[f"{key}.{parameter_name}"] = value
            else:
                kind, number = _encode(value, key)
                single.setdefault((key, kind), {})[parameter_name] = number
    every = [parameter_name for parameter_name, _, _ in _parameters(optimizer)]
    numbers = {
        "name": name,
        "parameters": _digest(every),
        "single": [
            {"key": key, "kind": kind, **_compact(values, len(every))} for (key, kind), values in single.items()
        ],
        "group": {c: _encode(g[c], c) for g in optimizer.param_groups[:1] for c in _COUNTERS if c in g},
    }
    return OptimizerState(tensors, numbers)


def load(optimizer: torch.optim.Optimizer, name: str, state: OptimizerState) -> None:
    """Give `optimizer` the state that `collect` found; the tensors become its own.

    Raises:
        SpecError: the state is another optimiser's, or of other parameters.
    """
    numbers = state.numbers
    if numbers.get("name") != name:
        raise SpecError(
            f"the checkpoint holds the state of train.optimizer {numbers.get('name')}, not {name}.",
            hint="Restore the old value in run.yaml, or start a new run from the weights (model.pretrained).",
        )
    parameters = {n: (p, g) for n, p, g in _parameters(optimizer)}
    if numbers["parameters"] != _digest(list(parameters)):
        raise SpecError(
            "the checkpoint was made with other trainable parameters.",
            hint="Restore model.lock_* in run.yaml, or start a new run from the weights (model.pretrained).",
        )
    optimizer.state.clear()
    for full_name, tensor in state.tensors.items():
        key, _, parameter_name = full_name.partition(".")
        parameter, _ = parameters[parameter_name]
        optimizer.state[parameter][key] = like(parameter, tensor)
    for entry in numbers["single"]:
        values = entry["each"] if "each" in entry else dict.fromkeys(parameters, entry["all"])
        for parameter_name, value in values.items():
            parameter, group = parameters[parameter_name]
            device = _device(entry["key"], parameter, group)
            optimizer.state[parameter][entry["key"]] = _decode(entry["kind"], value, device)
    for group in optimizer.param_groups:
        for counter, (kind, value) in numbers["group"].items():
            group[counter] = _decode(kind, value, torch.device("cpu"))


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter, dict[str, Any]]]:
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            yield name, parameter, group


def _encode(value: object, key: str) -> tuple[str, Any]:
    """The kind of a single number (its torch type, or a plain Python value), and the number."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype).removeprefix("torch."), value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return _PLAIN, value
    raise SpecError(
        f"the optimiser keeps {key!r} in a form that cannot be stored ({type(value).__name__}).",
        hint="Choose another train.optimizer.",
    )


def _decode(kind: str, value: Any, device: torch.device) -> Any:
    return value if kind == _PLAIN else torch.tensor(value, dtype=getattr(torch, kind), device=device)


def _compact(values: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    """One number for all parameters if they agree, which they do in counts of steps."""
    distinct = set(values.values())
    if len(values) == parameters and len(distinct) == 1:
        return {"all": distinct.pop()}
    return {"each": dict(values)}


def _device(key: str, parameter: nn.Parameter, group: Mapping[str, Any]) -> torch.device:
    """Torch wants counts of steps on the CPU, unless a fused or capturable kernel reads them."""
    if key == "step" and not (group.get("fused") or group.get("capturable")):
        return torch.device("cpu")
    return parameter.device


def _digest(names: list[str]) -> str:
    return sha256_hex(canonical_json(sorted(names)))

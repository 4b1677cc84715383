"""The parameter groups of the optimiser: which parameters share weight decay and learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from torch import nn

from clip_trainer.optim.decay import decayed_names, matching
from clip_trainer.optim.layers import layer_scales
from clipctl.contract.sections import ParameterGroupSection

_ORDINARY = ParameterGroupSection(match="*")


class ParameterGroup(TypedDict):
    """One group of a torch optimiser."""

    params: list[nn.Parameter]
    names: list[str]
    weight_decay: float
    lr_scale: float
    """Factor on the scheduled learning rate."""


@dataclass(frozen=True)
class GroupRules:
    """How to divide the parameters; see the fields of the same names in run.yaml."""

    weight_decay: float
    """Decay of the parameters that decay."""
    decay_rule: str = "openclip"
    """`openclip` or `modern`, see `decay.decayed_names`."""
    no_decay: tuple[str, ...] = ()
    """Shell patterns of parameters that do not decay."""
    image_layer_decay: float = 1.0
    """See `layers.layer_scales`."""
    text_layer_decay: float = 1.0
    """See `layers.layer_scales`."""
    special: tuple[ParameterGroupSection, ...] = ()
    """Other settings by pattern; the first that matches counts. What does not decay still does not."""


def parameter_groups(model: nn.Module, rules: GroupRules) -> list[ParameterGroup]:
    """The trainable parameters of `model` in groups: undecayed, decayed (OpenCLIP's order), then special ones.

    Args:
        model: parameters with `requires_grad` False are left out.
        rules: how to divide them.

    Raises:
        SpecError: a pattern matches no parameter.
    """
    parameters = dict(model.named_parameters())
    decayed = decayed_names(model, rules.decay_rule, rules.no_decay)
    scales = layer_scales(parameters, rules.image_layer_decay, rules.text_layer_decay)
    special = _special(parameters, rules.special)
    groups = {(False, 0.0, 1.0): _empty(0.0, 1.0), (True, rules.weight_decay, 1.0): _empty(rules.weight_decay, 1.0)}
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            continue
        section = special.get(name, _ORDINARY)
        own_decay = rules.weight_decay if section.weight_decay is None else section.weight_decay
        decay = own_decay if name in decayed else 0.0
        scale = scales[name] * section.learning_rate_scale
        group = groups.setdefault((name in decayed, decay, scale), _empty(decay, scale))
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _special(
    parameters: dict[str, nn.Parameter], sections: tuple[ParameterGroupSection, ...]
) -> dict[str, ParameterGroupSection]:
    found: dict[str, ParameterGroupSection] = {}
    for section in sections:
        for name in matching(parameters, section.match, "train.parameter_groups"):
            found.setdefault(name, section)
    return found


def _empty(weight_decay: float, lr_scale: float) -> ParameterGroup:
    return ParameterGroup(params=[], names=[], weight_decay=weight_decay, lr_scale=lr_scale)

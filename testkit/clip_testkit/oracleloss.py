"""OpenCLIP's loss classes and ours, side by side on gloo ranks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from clip_testkit.contrastive import features, teacher_features
from clip_trainer.loss import openclip as ours

ROWS, WIDTH, WORDS, VOCABULARY = 12, 5, 6, 9
NAMES = ("image_features", "text_features", "logit_scale", "logit_bias", "logits")


def oracle() -> ModuleType:
    """`open_clip.loss` alone: the whole package takes 3 CPU-seconds in each process."""
    name = "clip_testkit_oracle_loss"
    if name not in sys.modules:
        package = importlib.util.find_spec("open_clip")
        assert package is not None
        assert package.submodule_search_locations
        path = Path(package.submodule_search_locations[0]) / "loss.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


class Setting(NamedTuple):
    """A loss class with arguments, and which inputs it is called with."""

    cls: str
    inputs: tuple[str, ...]
    arguments: dict[str, Any]


class Seen(NamedTuple):
    """What a rank saw: the terms by name, and the gradients of their sum."""

    terms: dict[str, float]
    gradients: dict[str, Any]


def inputs(seed: int, captions: str = "uneven") -> dict[str, Tensor]:
    """Everything a loss can take, for the whole batch, in float64.

    Args:
        seed: of the features.
        captions: "even" lengths make the mean over ranks of the caption losses that over tokens.
    """
    image, text, scale = features(ROWS, WIDTH, seed)
    teacher = teacher_features(ROWS, seed)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(ROWS, WORDS, VOCABULARY, generator=generator, dtype=torch.float64)
    labels = torch.randint(1, VOCABULARY, (ROWS, WORDS), generator=generator)
    lengths = torch.arange(ROWS) % WORDS + 1 if captions == "uneven" else torch.full((ROWS,), 4)
    return {
        "image_features": image,
        "text_features": text,
        "logit_scale": scale,
        "logit_bias": torch.tensor(-4.0, dtype=torch.float64, requires_grad=True),
        "logits": logits.requires_grad_(),
        "labels": labels * (torch.arange(WORDS) < lengths[:, None]),
        "dist_image_features": teacher.image,
        "dist_text_features": teacher.text,
        "dist_logit_scale": teacher.scale,
    }


def call(loss: Callable[..., dict[str, Tensor]], setting: Setting, given: dict[str, Tensor]) -> Seen:
    """Terms and gradients of a loss object."""
    leaves = {name: given[name] for name in setting.inputs if name in NAMES}
    terms = loss(**{name: given[name] for name in setting.inputs}, output_dict=True)
    gradients = torch.autograd.grad(
        torch.stack([term.double() for term in terms.values()]).sum(),
        list(leaves.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    values = {name: float(term.detach()) for name, term in terms.items()}
    return Seen(values, {name: gradient.tolist() for name, gradient in zip(leaves, gradients, strict=True)})


def both(rank: int, settings: Sequence[Setting], seed: int, captions: str) -> list[tuple[Seen, Seen]]:
    """For each setting what OpenCLIP's class and ours say on this rank of the default group."""
    world = dist.get_world_size()
    whole = inputs(seed, captions)
    own = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    answers = []
    for setting in settings:
        seen = []
        for module in (oracle(), ours):
            given = {name: _part(tensor, own) for name, tensor in whole.items()}
            loss = getattr(module, setting.cls)(**setting.arguments, rank=rank, world_size=world)
            seen.append(call(loss, setting, given))
        answers.append((seen[0], seen[1]))
    return answers


def _part(tensor: Tensor, own: slice) -> Tensor:
    """This rank's rows; numbers whole."""
    part = tensor[own] if tensor.ndim else tensor
    return part.detach().clone().requires_grad_(tensor.requires_grad)

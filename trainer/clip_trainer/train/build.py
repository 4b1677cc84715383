"""The model of a run: what `model.*` of run.yaml says, put into effect."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from clip_trainer.library import assemble
from clip_trainer.library.assemble import Overrides, Start
from clip_trainer.library.source import Source, find_source, with_weights
from clip_trainer.model.clip_model import ClipModel
from clip_trainer.model.clip_output import SpeedUps
from clip_trainer.pretrained.fetching import Fetcher
from clip_trainer.pretrained.settings import from_environment
from clip_trainer.train.group import Group
from clipctl.contract.errors import SpecError
from clipctl.contract.sections import LossSection, ModelSection

_SIGLIP_SCALE = math.log(10)
_SIGLIP_BIAS = -10.0


def build_model(
    section: ModelSection,
    loss: LossSection,
    seed: int,
    group: Group,
    *,
    fresh: bool,
    speed_ups: SpeedUps | None = None,
) -> ClipModel:
    """The model of a run on every rank, equal everywhere, with its frozen parts frozen. Collective.

    Rank 0 alone looks up, downloads and reads weights; the others get the tensors from it.

    Args:
        section: `model` of run.yaml.
        loss: `train.loss`, which decides initial scale and bias.
        seed: of fresh weights.
        group: the ranks.
        fresh: the run has no checkpoint of its own yet; otherwise no weights are fetched, they come from there.
        speed_ups: exact shortcuts to use; all of them if None.

    Raises:
        SpecError: there is no such model, or something asked for does not fit it.
        ClipError: weights could not be fetched, are damaged, do not fit, or need the other activation.
    """
    source = Source(**group.on_first(lambda: asdict(find(section))))
    overrides = overrides_of(section, loss)
    model = _on_rank_0_first(
        group, lambda reads: _build(section, source, overrides, seed, group, speed_ups, reads), fresh
    )
    if fresh and source.weights is not None:
        group.on_first(lambda: _load(model, source, overrides))
    group.broadcast_tensors(model.state_dict().values())
    assemble.complete(model, source, overrides)
    _freeze(model, section)
    if section.grad_checkpointing:
        model.set_grad_checkpointing(True)
    if section.compile:
        compile_towers(model)
    return model


def find(section: ModelSection) -> Source:
    """Where the run's model comes from: its name or the file `model.config`, and `model.pretrained`.

    Raises:
        SpecError: the name is unknown, or the file is no model configuration.
        ClipError: a configuration could not be fetched.
    """
    if section.config is None:
        return find_source(section.name, section.pretrained)
    source = Source(section.name, _read_config(section.config))
    return source if section.pretrained is None else with_weights(source, section.pretrained)


def image_size_of(section: ModelSection) -> tuple[int, int]:
    """Height and width of the model's images in pixels, without building it. Raises what `find` raises."""
    size = section.image_size or find(section).config["vision_cfg"].get("image_size", 224)
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def overrides_of(section: ModelSection, loss: LossSection) -> Overrides:
    """The changes of the configuration that run.yaml asks for."""
    siglip = loss.kind == "siglip"
    scale = section.init_logit_scale if section.init_logit_scale is not None else (_SIGLIP_SCALE if siglip else None)
    bias = section.init_logit_bias if section.init_logit_bias is not None else (_SIGLIP_BIAS if siglip else None)
    fields = {"init_logit_scale": scale, "init_logit_bias": bias}
    size = section.image_size
    return Overrides(
        quick_gelu=section.quick_gelu,
        custom_text=section.custom_text,
        patch_dropout=section.patch_dropout,
        image_size=size if size is None or isinstance(size, int) else (size[0], size[1]),
        context_length=section.context_length,
        preprocess=section.preprocess.model_dump(),
        fields={name: value for name, value in fields.items() if value is not None},
    )


def compile_towers(model: ClipModel) -> None:
    """Compile what the towers compute; names of parameters stay as they are."""
    model.visual.compile()
    text: Any = getattr(model, "text", None)
    if text is not None:
        text.compile()
    else:
        own: Any = model
        own.embed_text = torch.compile(own.embed_text)


def _build(
    section: ModelSection,
    source: Source,
    overrides: Overrides,
    seed: int,
    group: Group,
    speed_ups: SpeedUps | None,
    reads: bool,
) -> ClipModel:
    wants_own = reads and source.weights is None
    start = Start(seed, pretrained_image=wants_own and section.pretrained_image, pretrained_text=wants_own)
    return assemble.build(
        source, overrides, start, precision=section.precision, device=group.device, speed_ups=speed_ups
    )


def _on_rank_0_first(group: Group, build: Callable[[bool], ClipModel], fresh: bool) -> ClipModel:
    """Let rank 0 build while the others wait, because it may download weights of towers; then the others."""
    built: list[ClipModel] = []
    group.on_first(lambda: built.append(build(fresh)))
    return built[0] if built else build(False)


def _load(model: ClipModel, source: Source, overrides: Overrides) -> None:
    path = source.fetch()
    assert path is not None
    assemble.load(model, source, overrides, path)


def _freeze(model: ClipModel, section: ModelSection) -> None:
    if section.lock_image is not None:
        model.lock_image_tower(section.lock_image.unlocked_groups, section.lock_image.freeze_bn_stats)
    if section.lock_text is not None:
        model.lock_text_tower(section.lock_text.unlocked_layers, section.lock_text.freeze_layer_norm)


def _read_config(location: str) -> dict[str, Any]:
    """A model configuration in a JSON file: the model's alone, or below `model_cfg`."""
    path = Fetcher(from_environment()).location(location)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"model.config {location} is not a JSON file: {error}.") from None
    config = content.get("model_cfg", content) if isinstance(content, dict) else None
    if not isinstance(config, dict) or not {"vision_cfg", "text_cfg"} <= config.keys():
        raise SpecError(
            f"model.config {location} holds no model configuration.", hint="It needs vision_cfg and text_cfg."
        )
    return config

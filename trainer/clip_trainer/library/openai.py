"""Models published by OpenAI, from their original files."""

from __future__ import annotations

from pathlib import Path

import torch

from clip_trainer.library import assemble
from clip_trainer.library.assemble import Overrides, Start
from clip_trainer.library.create import WeightsUnavailableError
from clip_trainer.library.source import Source
from clip_trainer.model.clip_model import ClipModel
from clip_trainer.pretrained import registry
from clip_trainer.pretrained.fetching import Fetcher
from clip_trainer.pretrained.settings import from_environment
from clip_trainer.weights.load import load_state
from clip_trainer.weights.openai import infer_config
from clip_trainer.weights.read import read_weights


def list_openai_models() -> list[str]:
    """Names of the models that OpenAI published."""
    return registry.list_pretrained_models_by_tag("openai")


def load_openai_model(
    name: str,
    precision: str | None = None,
    device: str | torch.device | None = None,
    cache_dir: str | None = None,
) -> ClipModel:
    """A model of OpenAI in evaluation mode, its architecture read off its weights; the archive's code is not run.

    Args:
        name: model name of the registry (`ViT-B-32`), or the path of an archive or a state dict.
        precision: default: fp32 on the CPU, fp16 elsewhere.
        device: default: cuda if there is one.
        cache_dir: where fetched files are kept.

    Raises:
        RuntimeError: there are no such weights.
        CorruptError: these are not the weights of an OpenAI model.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision or ("fp32" if str(device) == "cpu" else "fp16")
    path = _openai_file(name, cache_dir)
    state = {key: value.float() for key, value in read_weights(path).state_dict.items()}
    source = Source(name, infer_config(state))
    overrides = Overrides()
    model = assemble.build(source, overrides, Start(), precision=precision, device=device)
    load_state(model, state, source=str(path))
    assemble.complete(model, source, overrides)
    return model.eval()


def _openai_file(name: str, cache_dir: str | None) -> Path:
    model = registry.canonical_model(name)
    if not Path(name).is_file() and registry.is_pretrained_cfg(model, "openai"):
        # By address: the archive itself, from which the configuration is inferred.
        return Fetcher(from_environment(cache_dir), prefer_hf_hub=False).entry(registry.entry(model, "openai")).path
    if not Path(name).is_file():
        raise WeightsUnavailableError(
            f"OpenAI published no model called {name!r}.",
            hint=f"Known: {', '.join(list_openai_models())}.",
        )
    return Path(name)

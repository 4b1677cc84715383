"""Where a model comes from: its configuration, how its images are prepared, and the file of its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clip_trainer.library.names import FolderConfigError, parse_model_name, read_folder_config
from clip_trainer.model.config import raw_config
from clip_trainer.pretrained import registry
from clip_trainer.pretrained.fetching import WEIGHTS, Fetcher
from clip_trainer.pretrained.settings import from_environment
from clip_trainer.vision.preprocess import PreprocessCfg, merge_preprocess_dict
from clipctl.contract.errors import MissingError


@dataclass(frozen=True)
class Source:
    """A model before it is built: plain data, so that one rank can find it for all."""

    name: str
    """As the user wrote it."""
    config: dict[str, Any]
    """Configuration in OpenCLIP's layout."""
    preprocess: dict[str, Any] = field(default_factory=lambda: asdict(PreprocessCfg()))
    """How its images are prepared; `size` is replaced by the model's own."""
    weights: str | None = None
    """Tag or location of its weights; None if there are none."""
    quick_gelu: bool | None = None
    """Whether the registry says that the weights were made with QuickGELU; None if it does not know them."""

    def fetch(self, cache_dir: str | Path | None = None) -> Path | None:
        """The file of the weights on this machine, fetched if need be.

        Raises:
            ClipError: it could not be fetched, or does not exist.
        """
        if self.weights is None:
            return None
        fetcher = Fetcher(from_environment(cache_dir))
        scheme, rest = parse_model_name(self.name)
        if scheme != "url" or self.weights != self.name:
            return fetcher.weights(None if scheme else self.name, self.weights).path
        return _first_in(fetcher, rest)


def find_source(name: str, pretrained: str | None = None, cache_dir: str | Path | None = None) -> Source:
    """What a model name and its weights stand for. Fetches configurations, never weights.

    Args:
        name: a model name, `hf-hub:org/repo`, `local-dir:PATH`, or the address of a folder (`s3://bucket/model`).
        pretrained: tag or location of the weights. Not used with `hf-hub:` and the others: they bring their own.
        cache_dir: where fetched files are kept.

    Raises:
        SpecError: there is no such model, or its configuration cannot be used.
        ClipError: the configuration could not be fetched.
    """
    scheme, _ = parse_model_name(name)
    if scheme is not None:
        content = read_folder_config(name, cache_dir)
        if not isinstance(content.get("model_cfg"), dict):
            raise FolderConfigError(f"The configuration of {name} has no model_cfg.", hint="Is it one of OpenCLIP?")
        preprocess = merge_preprocess_dict(PreprocessCfg(), content.get("preprocess_cfg") or {})
        return Source(name, content["model_cfg"], preprocess, weights=name)
    source = Source(name, raw_config(name))
    if not pretrained:
        return source
    return with_weights(source, pretrained)


def with_weights(source: Source, pretrained: str) -> Source:
    """The same model with other weights: a tag of the registry, which brings its preprocessing, or a location."""
    model = registry.canonical_model(source.name)
    if not registry.is_pretrained_cfg(model, pretrained):
        return Source(source.name, source.config, source.preprocess, weights=pretrained)
    entry = registry.entry(model, pretrained)
    preprocess = merge_preprocess_dict(source.preprocess, entry.to_cfg())
    # A tag without the flag that belongs to a QuickGELU configuration was trained with that configuration
    # (roberta-ViT-B-32); OpenCLIP warns at each load of it.
    quick_gelu = entry.quick_gelu or bool(source.config.get("quick_gelu", False))
    return Source(source.name, source.config, preprocess, pretrained, quick_gelu)


def _first_in(fetcher: Fetcher, folder: str) -> Path:
    """The weights below an address that cannot be listed: the first standard name that is there."""
    for filename in WEIGHTS:
        try:
            return fetcher.location(f"{folder.rstrip('/')}/{filename}")
        except MissingError:
            continue
    raise MissingError(f"{folder} holds no weights.", hint=f"Expected is {' or '.join(WEIGHTS)}.")

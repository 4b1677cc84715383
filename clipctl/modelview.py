"""What `clipctl models list` and `show` tell: models, published weights, sizes, preprocessing, what is in the cache."""

from __future__ import annotations

from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import Any

from clipctl.contract.errors import MissingError


def model_rows(pattern: str) -> list[dict[str, Any]]:
    """One object per model whose name matches: name, parameters, image size, context length, tags."""
    from clip_trainer.model.config import get_config, model_names
    from clip_trainer.pretrained import registry
    from clip_trainer.pretrained.sizes import model_size

    rows = []
    for name in model_names():
        if not fnmatchcase(name, pattern):
            continue
        config, size = get_config(name), model_size(name)
        rows.append(
            {
                "name": name,
                "parameters": None if size is None else size.total,
                "image_size": config.vision.image_size,
                "context_length": config.text.context_length,
                "embed_dim": config.embed_dim,
                "tags": registry.list_pretrained_tags_by_model(name),
            }
        )
    return rows


def weight_rows(pattern: str) -> list[dict[str, Any]]:
    """One object per published pair of model and tag whose model matches."""
    from clip_trainer.pretrained import registry

    entries = (registry.entry(*pair) for pair in registry.list_pretrained())
    return [asdict(entry) for entry in entries if fnmatchcase(entry.model, pattern)]


def model_details(name: str) -> dict[str, Any]:
    """All about a model: configuration, sizes, tags.

    Raises:
        SpecError: there is no such model.
    """
    from clip_trainer.model.config import get_config
    from clip_trainer.pretrained import registry
    from clip_trainer.pretrained.sizes import model_size

    config, size = get_config(name), model_size(name)
    counts = {} if size is None else {"total": size.total, "image": size.image, "rest": size.rest}
    canonical = registry.canonical_model(name)
    return {
        "name": canonical,
        "parameters": counts,
        "weights_bytes_fp32": None if size is None else 4 * size.total,
        "config": config.to_dict(),
        "tokenizer": getattr(config.text, "hf_tokenizer_name", None) or "CLIP's own",
        "tags": registry.list_pretrained_tags_by_model(canonical),
    }


def weight_details(name: str, tag: str) -> dict[str, Any]:
    """All about published weights: sources, digest, licence, preprocessing, where they are on this machine.

    Raises:
        MissingError: the model has no such weights.
    """
    from clip_trainer.pretrained import Fetcher, registry
    from clip_trainer.pretrained.settings import from_environment

    entry = registry.entry(name, tag)
    try:
        offline = replace(from_environment(), offline=True)
        cached = str(Fetcher(offline).entry(entry).path)
    except MissingError:
        cached = None
    preprocess = {field: getattr(entry, field) for field in ("mean", "std", "interpolation", "resize_mode")}
    return {
        "model": entry.model,
        "tag": entry.tag,
        "hub": f"hf-hub:{entry.hf_hub}".rstrip("/") if entry.hf_hub else None,
        "url": entry.url or None,
        "sha256_of_url": entry.sha256,
        "licence": entry.licence,
        "licence_basis": entry.licence_basis,
        "quick_gelu": entry.quick_gelu,
        "preprocess": preprocess,
        "cached": cached,
    }

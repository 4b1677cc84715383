"""Published weights: which there are, where they lie, and how they get here verified. Imports no torch."""

from clip_trainer.pretrained.compat import (
    download_pretrained,
    download_pretrained_from_hf,
    download_pretrained_from_url,
)
from clip_trainer.pretrained.fetching import Fetched, Fetcher, fetch, fetch_hub_file
from clip_trainer.pretrained.registry import (
    PretrainedEntry,
    entry,
    get_pretrained_cfg,
    get_pretrained_url,
    is_pretrained_cfg,
    list_pretrained,
    list_pretrained_models_by_tag,
    list_pretrained_tags_by_model,
)

__all__ = [
    "Fetched",
    "Fetcher",
    "PretrainedEntry",
    "download_pretrained",
    "download_pretrained_from_hf",
    "download_pretrained_from_url",
    "entry",
    "fetch",
    "fetch_hub_file",
    "get_pretrained_cfg",
    "get_pretrained_url",
    "is_pretrained_cfg",
    "list_pretrained",
    "list_pretrained_models_by_tag",
    "list_pretrained_tags_by_model",
]

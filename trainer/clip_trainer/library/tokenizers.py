"""`get_tokenizer`, with OpenCLIP's arguments and results."""

from __future__ import annotations

import logging
from typing import Any

from clip_trainer.library.names import get_model_config, parse_model_name, read_folder_config
from clip_trainer.model.config import TextConfig
from clip_trainer.text import CONTEXT_LENGTH, HFTokenizer, SigLipTokenizer, SimpleTokenizer, tokenizer_for
from clipctl.contract.errors import ClipError

_log = logging.getLogger(__name__)
Tokenizer = SimpleTokenizer | HFTokenizer | SigLipTokenizer


def get_tokenizer(
    model_name: str = "",
    context_length: int | None = None,
    cache_dir: str | None = None,
    **kwargs: Any,
) -> Tokenizer:
    """The tokenizer of a model; called with one or several texts it returns int64 ids [n, context_length].

    Args:
        model_name: built-in name, `hf-hub:org/repo`, `local-dir:PATH` (tokenizer files are taken from the folder), or
            the address of a folder. Unknown names, and none, mean CLIP's own tokenizer.
        context_length: in place of the configuration's.
        cache_dir: where fetched files are kept.
        **kwargs: arguments of the tokenizer, in place of the configuration's.

    Raises:
        ClipError: configuration or tokenizer files could not be had.
    """
    scheme, rest = parse_model_name(model_name)
    config = _text_config(model_name, cache_dir)
    if config is None:
        _log.warning("There is no model called %r: taking CLIP's own tokenizer.", model_name)
        return SimpleTokenizer(context_length=context_length or CONTEXT_LENGTH, **kwargs)
    if not config.hf_tokenizer_name and scheme is None and "siglip" in rest.lower():
        return SigLipTokenizer(_siglip_variant(rest.lower()), context_length=context_length or config.context_length)
    return tokenizer_for(
        config,
        source=rest if scheme == "local-dir" and config.hf_tokenizer_name else None,
        context_length=context_length,
        cache_dir=cache_dir,
        **kwargs,
    )


def _text_config(model_name: str, cache_dir: str | None) -> TextConfig | None:
    """The text section of a model's configuration; None if there is no such model."""
    scheme, rest = parse_model_name(model_name)
    if scheme is None and not rest:
        return TextConfig.model_validate({})
    if scheme == "hf-hub":
        try:
            content = read_folder_config(model_name, cache_dir)
        except ClipError as error:
            # A repository of Hugging Face that is no model of OpenCLIP may still hold a tokenizer.
            _log.warning("%s; taking the repository's own tokenizer.", error)
            return TextConfig.model_validate({"hf_tokenizer_name": rest})
        config: dict[str, Any] | None = content.get("model_cfg") or {}
    else:
        config = get_model_config(model_name)
    return None if config is None else TextConfig.model_validate(config.get("text_cfg", {}))


def _siglip_variant(name: str) -> str:
    if "siglip2" in name:
        return "gemma"
    return "mc4" if "i18n" in name else "c4-en"

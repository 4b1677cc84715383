"""The tokenizer that a model's configuration asks for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from clip_trainer.text.bpe import BpeTokenizer, Ids
from clip_trainer.text.huggingface import HFTokenizer
from clip_trainer.text.simple import SimpleTokenizer


class TextSettings(Protocol):
    """What the tokenizer depends on (a `TextConfig`)."""

    @property
    def context_length(self) -> int:
        """Longest token sequence."""

    @property
    def hf_tokenizer_name(self) -> str | None:
        """Repository or folder of a Hugging Face tokenizer."""

    @property
    def tokenizer_mode(self) -> str | None:
        """Special handling of it."""

    @property
    def tokenizer_kwargs(self) -> dict[str, Any] | None:
        """Further arguments."""


def tokenizer_for(
    config: TextSettings,
    *,
    source: str | Path | None = None,
    context_length: int | None = None,
    cache_dir: str | None = None,
    **options: Any,
) -> SimpleTokenizer | HFTokenizer:
    """The tokenizer of a text tower, with OpenCLIP's interface.

    Args:
        config: the text section of a model's configuration.
        source: where the Hugging Face tokenizer's files are, if not where the configuration says.
        context_length: in place of the configuration's.
        cache_dir: where downloaded files are kept.
        **options: arguments of the tokenizer in place of the configuration's `tokenizer_kwargs`.
    """
    length = context_length or config.context_length
    arguments = {**(config.tokenizer_kwargs or {}), **options}
    if not config.hf_tokenizer_name:
        return SimpleTokenizer(context_length=length, **arguments)
    return HFTokenizer(
        source or config.hf_tokenizer_name,
        context_length=length,
        cache_dir=cache_dir,
        tokenizer_mode=config.tokenizer_mode,
        **arguments,
    )


def tokenizer_folder(model_name: str) -> str | None:
    """Where the tokenizer files of a model are: in its own folder, if it is a `local-dir:` model."""
    scheme, colon, folder = model_name.partition(":")
    return folder if colon and scheme == "local-dir" else None


class LoaderTokenizer:
    """A tokenizer for loader threads: captions to int64 arrays [n, context_length].

    CLIP's own tokenizer needs no lock and no torch. Those of Hugging Face keep the padding of a call inside, so one
    thread at a time may call them.

    Args:
        config: the text section of a model's configuration.
        source: where the Hugging Face tokenizer's files are, if not where the configuration says.
    """

    def __init__(self, config: TextSettings, source: str | Path | None = None) -> None:
        self._bpe: BpeTokenizer | None = None
        if not config.hf_tokenizer_name and not config.tokenizer_kwargs:
            self._bpe = BpeTokenizer(config.context_length)
        else:
            self._tokenizer = tokenizer_for(config, source=source)
            self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> Ids:
        """Ids of captions."""
        if self._bpe is not None:
            return self._bpe(texts)
        with self._lock:
            ids: Ids = self._tokenizer(list(texts)).numpy()
        return ids

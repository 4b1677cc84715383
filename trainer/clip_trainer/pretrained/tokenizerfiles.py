"""The files of a tokenizer, so that a directory with a model needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from clip_trainer.pretrained.fetching import Fetcher
from clip_trainer.pretrained.httperrors import NotInRepositoryError
from clipctl.contract.errors import MissingError

_CONTENT = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "vocab.txt", "vocab.json")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
# AutoTokenizer tells the family from the model's configuration where tokenizer_config.json does not say it.
_FAMILY = "config.json"
_START, _END = "<|startoftext|>", "<|endoftext|>"


def tokenizer_files(fetcher: Fetcher, repository: str) -> dict[str, Path]:
    """The files of a tokenizer on the hub that exist, by name.

    Raises:
        MissingError: the repository has none, or offline and none is in the cache.
        ClipError: see `fetch`.
    """
    place = Path(repository)
    if place.is_dir():
        names = (*_CONTENT, *_SETTINGS, _FAMILY)
        found = {name: place / name for name in names if (place / name).is_file()}
    else:
        found = {}
        for name in (*_CONTENT, *_SETTINGS, _FAMILY):
            path = _optional(fetcher, repository, name)
            if path is not None:
                found[name] = path
    if not any(name in found for name in _CONTENT):
        raise MissingError(
            f"the tokenizer {repository} is not on this machine, and the hub has no files of one under that name.",
            hint="Fetch it where there is a network, or leave it out with --no-tokenizer.",
        )
    if "tokenizer_config.json" in found:
        found.pop(_FAMILY, None)
    return found


def clip_tokenizer_files() -> dict[str, bytes]:
    """CLIP's own tokenizer in the format of `transformers`, which reads it as `CLIPTokenizer`.

    Raises:
        MissingError: the text code is not installed.
    """
    try:
        from clip_trainer.text.merges import read_merges, vocabulary
    except ImportError as error:
        raise MissingError(
            f"writing the tokenizer needs {error.name}.", hint="Install it with `pip install 'clipctl[trainer]'`."
        ) from None
    merges = read_merges()
    ids = {symbol: number for number, symbol in enumerate([*vocabulary(merges), _START, _END])}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": _START,
        "eos_token": _END,
        "pad_token": "!",  # id 0, with which CLIP pads
        "unk_token": _END,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
    }
    table = "#version: 0.2\n" + "".join(f"{pair}\n" for pair in merges)
    return {
        "vocab.json": json.dumps(ids, ensure_ascii=False).encode(),
        "merges.txt": table.encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
    }


def _optional(fetcher: Fetcher, repository: str, name: str) -> Path | None:
    """The file, or None if the repository has no such file, or offline if it is not in the cache."""
    try:
        return fetcher.file(repository, name)
    except NotInRepositoryError:
        return None
    except MissingError:
        if fetcher.settings.offline:
            return None
        raise

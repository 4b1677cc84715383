"""Tokenizers of Hugging Face's `transformers` (optional), with OpenCLIP's interface."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_trainer.text.bpe import CONTEXT_LENGTH
from clip_trainer.text.clean import clean_function
from clipctl.contract.errors import CorruptError, MissingError

if TYPE_CHECKING:
    from torch import Tensor

# How the special tokens of a bare tokenizer.json are spelled in the families CLIP's text towers come from.
_SPELLINGS = {
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<cls>"),
    "sep_token": ("[SEP]", "<sep>"),
    "bos_token": ("<s>", "<bos>", "[BOS]"),
    "eos_token": ("</s>", "<eos>", "[EOS]"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
}


class HFTokenizer:
    """Callable: captions to ids, int64 [n, context_length], padded as the tokenizer says.

    Args:
        tokenizer_name: a folder with tokenizer files, a `tokenizer.json`, or the name of a repository.
        context_length: columns, where a call names none.
        clean: `whitespace`, `lower` or `canonicalize` (see `clip_trainer.text.clean`).
        strip_sep_token: replace the separator token by 0 (CLIPA).
        language: source language of a multilingual tokenizer (NLLB).
        cache_dir: where downloaded files are kept.
        tokenizer_mode: `clips` for start and end token before the padding and the class token in the last column.
        **kwargs: for the tokenizer itself.

    Raises:
        MissingError: transformers is not installed, or the tokenizer is not found.
        ValueError: no such cleaning mode or tokenizer mode.
    """

    def __init__(
        self,
        tokenizer_name: str | Path,
        context_length: int | None = CONTEXT_LENGTH,
        clean: str = "whitespace",
        strip_sep_token: bool = False,
        language: str | None = None,
        cache_dir: str | None = None,
        tokenizer_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        if tokenizer_mode not in (None, "", "clips"):
            raise ValueError(f"there is no tokenizer mode {tokenizer_mode!r}; there is 'clips'")
        self.tokenizer_mode = tokenizer_mode or ""
        self.context_length = context_length
        self.clean_fn = clean_function(clean)
        self.strip_sep_token = strip_sep_token
        self.tokenizer = _load(tokenizer_name, cache_dir, kwargs)
        if language is not None:
            self.set_language(language)

    def save_pretrained(self, dest: str | Path) -> None:
        """Write the tokenizer's files into a folder, from which it can be loaded again."""
        self.tokenizer.save_pretrained(dest)

    def set_language(self, src_lang: str) -> None:
        """Choose the language of the captions; warns if the tokenizer knows no languages.

        OpenCLIP calls `set_src_lang_special_tokens`, which transformers undoes at the next call; `src_lang` stays.
        """
        if hasattr(self.tokenizer, "src_lang"):
            self.tokenizer.src_lang = src_lang
        else:
            warnings.warn("Cannot set language for the tokenizer.", stacklevel=2)

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Ids of captions, int64 [n, context_length].

        Args:
            texts: a caption or several.
            context_length: columns; default: what the tokenizer was made with.

        Raises:
            ValueError: there is no context length.
        """
        import torch

        length = context_length or self.context_length
        if not length:
            raise ValueError("context_length is set neither in the tokenizer nor in the call")
        cleaned = [self.clean_fn(text) for text in ([texts] if isinstance(texts, str) else texts)]
        if not cleaned:
            return torch.zeros(0, length, dtype=torch.long)
        if self.tokenizer_mode == "clips":
            return torch.tensor(self._with_class_token(cleaned, length))
        rows = self.tokenizer(cleaned, max_length=length, padding="max_length", truncation=True).input_ids
        ids = torch.tensor(rows)
        if self.strip_sep_token:
            ids = ids.masked_fill(ids == self.tokenizer.sep_token_id, 0)
        return ids

    def _with_class_token(self, texts: list[str], length: int) -> list[list[int]]:
        """Start, at most `length - 3` ids, end, padding, class token (CLIPS, arXiv 2411.16828)."""
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        rows = []
        for ids in self.tokenizer(texts, add_special_tokens=False, padding=False, truncation=False).input_ids:
            row = [start, *ids[: length - 3], end][: length - 1]
            row += [self.tokenizer.pad_token_id] * (length - 1 - len(row))
            rows.append([*row, self.tokenizer.cls_token_id])
        return rows


def _load(name: str | Path, cache_dir: str | None, options: dict[str, Any]) -> Any:
    """The tokenizer of a folder, a `tokenizer.json` or a repository."""
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ModuleNotFoundError:
        raise MissingError(
            f"The tokenizer {name} needs transformers.", hint="Install it with `pip install 'clipctl[hf]'`."
        ) from None
    path = Path(name)
    if path.suffix == ".json" and path.is_file() and not (path.parent / "tokenizer_config.json").is_file():
        fast: Any = PreTrainedTokenizerFast  # partly typed
        return fast(tokenizer_file=str(path), **{**_special_tokens(path), **options})
    source = path.parent if path.is_file() and path.suffix == ".json" else name
    try:
        return AutoTokenizer.from_pretrained(source, cache_dir=cache_dir, **options)
    except OSError as error:
        raise MissingError(
            f"There is no tokenizer {name}: {str(error).splitlines()[0]}",
            hint="Give a folder with tokenizer.json, or the name of a repository that can be reached or is cached.",
        ) from error


def _special_tokens(path: Path) -> dict[str, str]:
    """Roles of the special tokens in a bare tokenizer.json, told from their usual spelling."""
    try:
        added = {token["content"] for token in json.loads(path.read_text(encoding="utf-8"))["added_tokens"]}
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path} is no tokenizer.json: {error}.") from None
    found = {role: next((s for s in spellings if s in added), None) for role, spellings in _SPELLINGS.items()}
    return {role: spelling for role, spelling in found.items() if spelling}

"""SigLIP's tokenizers: SentencePiece vocabularies of T5, mT5 and Gemma, with OpenCLIP's interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_trainer.text.clean import clean_canonicalize
from clip_trainer.text.huggingface import HFTokenizer
from clipctl.contract.errors import MissingError

if TYPE_CHECKING:
    from torch import Tensor

VOCAB_FILES = {
    "c4-en": "http://storage.googleapis.com/t5-data/vocabs/cc_en.32000/sentencepiece.model",
    "mc4": "http://storage.googleapis.com/t5-data/vocabs/mc4.250000.100extra/sentencepiece.model",
    "gemma": "http://storage.googleapis.com/big_vision/gemma_tokenizer.model",
}
"""Where the vocabularies of SigLIP (English, multilingual) and SigLIP 2 are published."""

_END = 1


class SigLipTokenizer:
    """Callable: captions in lower case without punctuation to ids, int64 [n, context_length], ending with 1.

    Nothing is downloaded: the vocabulary is a file of this machine.

    Args:
        tokenizer_name: a SentencePiece file (`*.model`), a `tokenizer.json`, or a folder with one of them. With
            `gemma` in the name padding is 0 (SigLIP 2), otherwise 1 (SigLIP), which is the end token too.
        context_length: columns, where a call names none.

    Raises:
        MissingError: there is no such file, or the library that reads it is not installed.
    """

    def __init__(self, tokenizer_name: str | Path, context_length: int | None = 64) -> None:
        self.context_length = context_length
        self.pad_token_id = 0 if "gemma" in str(tokenizer_name) else _END
        path = _vocabulary_file(tokenizer_name)
        self._pieces = _Json(path) if path.suffix == ".json" else _SentencePiece(path)

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Ids of captions, int64 [n, context_length]; a longer caption is cut, and ends with 1 all the same.

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
        texts = [texts] if isinstance(texts, str) else texts
        result = torch.full((len(texts), length), self.pad_token_id, dtype=torch.long)
        for row, text in zip(result, texts, strict=True):
            ids = [*self._pieces.encode(clean_canonicalize(text))[: length - 1], _END]
            row[: len(ids)] = torch.tensor(ids)
        return result

    def save_pretrained(self, dest: str | Path) -> None:
        """Copy the vocabulary file into a folder, from which it can be loaded again."""
        folder = Path(dest)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self._pieces.path.name).write_bytes(self._pieces.path.read_bytes())


class _SentencePiece:
    """Ids of a text by a SentencePiece model."""

    def __init__(self, path: Path) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ModuleNotFoundError:
            raise MissingError(
                f"The vocabulary {path} needs sentencepiece.", hint="Install it with `pip install 'clipctl[hf]'`."
            ) from None
        self.path = path
        self._model = SentencePieceProcessor(model_file=str(path))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(text)
        return ids


class _Json:
    """Ids of a text by a `tokenizer.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tokenizer: Any = HFTokenizer(path).tokenizer

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids


def _vocabulary_file(name: str | Path) -> Path:
    path = Path(name)
    if path.is_dir():
        # transformers' own names for what save_pretrained writes, then those of the published files
        for candidate in ("spiece.model", "tokenizer.model", "sentencepiece.model", "tokenizer.json"):
            if (path / candidate).is_file():
                return path / candidate
        found = sorted(path.glob("*.model"))
        if found:
            return found[0]
    if path.is_file():
        return path
    source = f" It is published at {VOCAB_FILES[str(name)]}." if str(name) in VOCAB_FILES else ""
    raise MissingError(
        f"There is no vocabulary {name} on this machine.{source}",
        hint="Give the path of a SentencePiece .model file or of a tokenizer.json.",
    )

"""CLIP's tokenizer with OpenCLIP's interface: captions to int64 tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from clip_trainer.text.bpe import CONTEXT_LENGTH, BpeTokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from clip_trainer.text.reduction import Reduction


class SimpleTokenizer:
    """Callable: captions to ids [n, context_length], start ... end, then zeros; a longer caption is cut.

    Args:
        bpe_path: a merge table in OpenAI's format in place of CLIP's own.
        additional_special_tokens: tokens with ids after the vocabulary, recognised inside captions.
        context_length: columns, where a call names none.
        clean: `lower`, `whitespace` (keeps the case) or `canonicalize` (lower case without punctuation).
        reduction_mask: what to leave out of long captions: `simple`, `random`, `shuffle` or `syntax` (see
            `clip_trainer.text.reduction`); empty to cut the end off.

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(
        self,
        bpe_path: str | Path | None = None,
        additional_special_tokens: Sequence[str] | None = None,
        context_length: int | None = CONTEXT_LENGTH,
        clean: str = "lower",
        reduction_mask: str = "",
    ) -> None:
        self.bpe = BpeTokenizer(clean=clean, special_tokens=additional_special_tokens or (), merges=bpe_path)
        self.context_length = context_length
        self.clean_fn = self.bpe.clean
        self.encoder = self.bpe.ids
        self.vocab_size = self.bpe.vocab_size
        self.sot_token_id = self.bpe.sot_id
        self.eot_token_id = self.bpe.eot_id
        self.all_special_ids = [self.encoder[token] for token in self.bpe.special_tokens]
        self.reduction_fn: Reduction | None = None
        if reduction_mask:
            from clip_trainer.text.reduction import get_reduction_mask_fn

            self.reduction_fn = get_reduction_mask_fn(reduction_mask)

    @cached_property
    def bpe_ranks(self) -> dict[tuple[str, str], int]:
        """Rank of each pair of symbols in the merge table."""
        return {(pair.partition(" ")[0], pair.partition(" ")[2]): rank for pair, rank in self.bpe.ranks.items()}

    @cached_property
    def decoder(self) -> dict[int, str]:
        """Symbol of each id."""
        return {index: symbol for symbol, index in self.encoder.items()}

    def encode(self, text: str) -> list[int]:
        """Ids of a caption, without start and end tokens, not cut."""
        return self.bpe.encode(text)

    def decode(self, tokens: Iterable[int] | Tensor) -> str:
        """The text of ids; words end with a space, special tokens appear as they are spelled."""
        return self.bpe.decode(int(token) for token in tokens)

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Ids of captions, int64 [n, context_length].

        Args:
            texts: a caption or several.
            context_length: columns; default: what the tokenizer was made with.

        Raises:
            ValueError: there is no context length.
        """
        import torch

        texts = [texts] if isinstance(texts, str) else list(texts)
        length = context_length or self.context_length
        if not length:
            raise ValueError("context_length is set neither in the tokenizer nor in the call")
        if self.reduction_fn is not None:
            return self.reduction_fn(
                texts,
                context_length=length,
                sot_token_id=self.sot_token_id,
                eot_token_id=self.eot_token_id,
                encode_fn=self.encode,
            )
        return torch.from_numpy(self.bpe.rows(texts, length))


@lru_cache(maxsize=1)
def _default() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokenize(texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH) -> Tensor:
    """Ids of captions by CLIP's own tokenizer, int64 [n, context_length]."""
    return _default()(texts, context_length)


def decode(output_ids: Iterable[int] | Tensor) -> str:
    """The text of one row of ids, by CLIP's own tokenizer."""
    return _default().decode(output_ids)

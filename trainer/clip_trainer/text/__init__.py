"""Captions to token ids. Nothing here imports torch, so loader threads and tools can use it."""

from __future__ import annotations

from clip_trainer.text.bpe import BpeTokenizer, padded_length, token_lengths

__all__ = ["BpeTokenizer", "padded_length", "token_lengths"]

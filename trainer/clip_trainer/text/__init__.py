"""Captions to token ids. torch is imported only where a tensor is asked for, so tools can use the rest."""

from __future__ import annotations

from clip_trainer.text.bpe import CONTEXT_LENGTH, BpeTokenizer, padded_length, token_lengths
from clip_trainer.text.clean import canonicalize_text, clean_function
from clip_trainer.text.factory import LoaderTokenizer, tokenizer_folder, tokenizer_for
from clip_trainer.text.huggingface import HFTokenizer
from clip_trainer.text.siglip import SigLipTokenizer
from clip_trainer.text.simple import SimpleTokenizer, decode, tokenize

__all__ = [
    "CONTEXT_LENGTH",
    "BpeTokenizer",
    "HFTokenizer",
    "LoaderTokenizer",
    "SigLipTokenizer",
    "SimpleTokenizer",
    "canonicalize_text",
    "clean_function",
    "decode",
    "padded_length",
    "token_lengths",
    "tokenize",
    "tokenizer_folder",
    "tokenizer_for",
]

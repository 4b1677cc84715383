"""Small tokenizer files of every kind that CLIP's text towers use, trained on a few sentences in a second."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

_TEXT = "a photo of the cat dog bird red green blue big small house tree sky car wide old new sun moon café 12"
_WORDS = tuple(_TEXT.split())


def sentences(count: int = 200) -> list[str]:
    """What the vocabularies are trained on."""
    source = random.Random(0)
    return [" ".join(source.choice(_WORDS) for _ in range(source.randrange(3, 12))) for _ in range(count)]


def bert(folder: Path) -> Path:
    """WordPiece in lower case, `[CLS] ... [SEP]`, padding 0."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return _save(tokenizer, folder, dict(zip(roles, special, strict=True)))


def roberta(folder: Path) -> Path:
    """Byte-level BPE, `<s> ... </s>`, padding 1."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    roles = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    return _save(tokenizer, folder, {**roles, "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"})


def clips(folder: Path) -> Path:
    """WordPiece whose start, end and class tokens all differ, as tokenizer mode `clips` needs."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[BOS]", "[EOS]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sentences(), trainer)
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token")
    return _save(tokenizer, folder, dict(zip(roles, special, strict=True)))


def nllb(folder: Path) -> Path:
    """NLLB's: the first token of a caption names its language."""
    from transformers import NllbTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "▁b"]
    make: Any = NllbTokenizer
    make(vocab={word: index for index, word in enumerate(words)}, merges=[("▁", "a"), ("▁", "b")]).save_pretrained(
        folder
    )
    return folder


def sentencepiece(path: Path, kind: str) -> Path:
    """A SentencePiece model: `t5` (unigram) or `gemma` (BPE with bytes for what it does not know)."""
    import sentencepiece as spm

    common: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "hard_vocab_limit": False, "minloglevel": 2}
    options: dict[str, Any] = {"vocab_size": 80, "unk_id": 2, "bos_id": -1}
    if kind == "gemma":
        options = {"model_type": "bpe", "vocab_size": 400, "bos_id": 2, "unk_id": 3, "byte_fallback": True}
        options |= {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "normalization_rule_name": "identity"}
        options |= {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>", "unk_piece": "<unk>"}
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(400)), model_prefix=str(path.with_suffix("")), **common, **options
    )
    return path


def _save(tokenizer: Tokenizer, folder: Path, special: dict[str, str]) -> Path:
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder

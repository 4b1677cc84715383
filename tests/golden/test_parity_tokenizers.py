"""Tokenizers made from files equal OpenCLIP's classes on the same files; the syntax reduction on the same tagger."""

import random
from types import SimpleNamespace

import pytest
import torch

from clip_testkit import smalltokenizers as small
from clip_testkit.captions import fuzzed_captions
from clip_testkit.nltkdata import TAGS, write_nltk_data
from clip_trainer.text import HFTokenizer, SigLipTokenizer, SimpleTokenizer
from clip_trainer.text.clean import CLEAN_MODES

pytestmark = pytest.mark.parity
TEXTS = [*small.sentences(60), *(caption for _, caption in fuzzed_captions(300, seed=3)), "", "photo " * 90]


@pytest.fixture(scope="module")
def oracle(open_clip):
    from open_clip import tokenizer

    return tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    makers = {"bert": small.bert, "roberta": small.roberta, "clips": small.clips, "nllb": small.nllb}
    return SimpleNamespace(**{name: make(root / name) for name, make in makers.items()}, root=root)


@pytest.mark.parametrize("clean", CLEAN_MODES)
@pytest.mark.parametrize("name", ["bert", "roberta", "nllb"])
def test_files_of_every_kind(oracle, files, name, clean):
    options = {"context_length": 24, "clean": clean}
    theirs, ours = (make(getattr(files, name), **options) for make in (oracle.HFTokenizer, HFTokenizer))
    assert torch.equal(ours(TEXTS), theirs(TEXTS))
    assert torch.equal(ours(TEXTS[:20], 7), theirs(TEXTS[:20], 7))
    assert torch.equal(ours(TEXTS[0]), theirs(TEXTS[0]))


def test_stripped_separators(oracle, files):
    theirs, ours = (make(files.bert, 16, strip_sep_token=True) for make in (oracle.HFTokenizer, HFTokenizer))
    assert torch.equal(ours(TEXTS), theirs(TEXTS))


@pytest.mark.parametrize("context", [5, 32])
def test_mode_clips(oracle, files, context):
    theirs, ours = (make(files.clips, context, tokenizer_mode="clips") for make in (oracle.HFTokenizer, HFTokenizer))
    assert torch.equal(ours(TEXTS), theirs(TEXTS))


@pytest.mark.parametrize("kind", ["t5", "gemma"])
def test_siglip_vocabularies(oracle, files, kind):
    """OpenCLIP hands the file to a constructor that transformers 5 changed; so its tokenizer is made the new way."""
    from transformers import GemmaTokenizerFast, T5TokenizerFast

    path = small.sentencepiece(files.root / f"{kind}.model", kind)
    folder = files.root / kind
    folder.mkdir()
    theirs = object.__new__(oracle.SigLipTokenizer)
    if kind == "gemma":
        (folder / "tokenizer.model").write_bytes(path.read_bytes())
        options = {"padding_side": "right", "add_bos_token": False, "add_eos_token": True}
        theirs.tokenizer = GemmaTokenizerFast.from_pretrained(folder, **options)
    else:
        (folder / "spiece.model").write_bytes(path.read_bytes())
        theirs.tokenizer = T5TokenizerFast.from_pretrained(folder, extra_ids=0, legacy=False)
    theirs.tokenizer.pad_token_id = 0 if kind == "gemma" else 1
    theirs.tokenizer.eos_token_id = 1
    theirs.context_length = 64
    ours = SigLipTokenizer(path)
    for context in (64, 9):
        assert torch.equal(ours(TEXTS, context), theirs(TEXTS, context))


def test_syntax_reduction(oracle, tmp_path, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [str(write_nltk_data(tmp_path / "nltk"))])
    monkeypatch.setattr(oracle, "_nltk_init", True)  # it would download
    theirs, ours = (
        make(context_length=12, reduction_mask="syntax") for make in (oracle.SimpleTokenizer, SimpleTokenizer)
    )
    source = random.Random(1)
    words = [*TAGS, "xylophone", "it's", "42", "!"]
    texts = [" ".join(source.choice(words) for _ in range(source.randrange(1, 60))) for _ in range(200)]
    assert torch.equal(ours(texts), theirs(texts))

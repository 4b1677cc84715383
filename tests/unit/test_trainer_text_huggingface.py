"""Tokenizers from files: Hugging Face's and SigLIP's. Comparison with OpenCLIP is in tests/golden."""

import builtins
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clip_testkit import smalltokenizers as small
from clip_trainer.text import (
    HFTokenizer,
    LoaderTokenizer,
    SigLipTokenizer,
    SimpleTokenizer,
    tokenizer_folder,
    tokenizer_for,
)
from clipctl.contract.errors import CorruptError, MissingError

TEXTS = ["a photo of the cat", "A  Cat, &amp; dog!", "", "big " * 40]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return SimpleNamespace(
        bert=small.bert(root / "bert"),
        clips=small.clips(root / "clips"),
        nllb=small.nllb(root / "nllb"),
        t5=small.sentencepiece(root / "t5.model", "t5"),
        gemma=small.sentencepiece(root / "gemma.model", "gemma"),
    )


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def text_settings(**given):
    empty = {"context_length": 12, "hf_tokenizer_name": None, "tokenizer_mode": None, "tokenizer_kwargs": None}
    return SimpleNamespace(**{**empty, **given})


def test_captions_are_framed_padded_and_cut(files):
    ids = HFTokenizer(files.bert, context_length=12)(TEXTS)
    assert ids.dtype == torch.int64
    assert ids.shape == (4, 12)
    assert (ids[:, 0] == 2).all()
    assert ids[2].tolist() == [2, 3, *[0] * 10]
    assert ids[3, -1] == 3
    assert HFTokenizer(files.bert)("a").shape == (1, 77)
    assert HFTokenizer(files.bert)("a", 5).shape == (1, 5)
    assert HFTokenizer(files.bert)([]).shape == (0, 77)


def test_the_separator_can_be_left_out(files):
    kept = HFTokenizer(files.bert, context_length=12)(TEXTS)
    ids = HFTokenizer(files.bert, context_length=12, strip_sep_token=True)(TEXTS)
    assert torch.equal(ids, torch.where(kept == 3, 0, kept))


def test_a_bare_tokenizer_file_knows_its_special_tokens(files, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes((files.bert / "tokenizer.json").read_bytes())
    assert torch.equal(HFTokenizer(path, 12)(TEXTS), HFTokenizer(files.bert, 12)(TEXTS))
    beside = HFTokenizer(files.bert / "tokenizer.json", 12)
    assert torch.equal(beside(TEXTS), HFTokenizer(files.bert, 12)(TEXTS))


def test_mode_clips_ends_with_the_class_token(files):
    tokenizer = HFTokenizer(files.clips, context_length=12, tokenizer_mode="clips")
    ids = tokenizer(TEXTS)
    fast = tokenizer.tokenizer
    assert (ids[:, 0] == fast.bos_token_id).all()
    assert (ids[:, -1] == fast.cls_token_id).all()
    assert ids[2].tolist() == [fast.bos_token_id, fast.eos_token_id, *[fast.pad_token_id] * 9, fast.cls_token_id]
    assert ids[3, -2] == fast.eos_token_id


def test_a_language_can_be_chosen_and_stays(files):
    tokenizer = HFTokenizer(files.nllb, context_length=6, language="deu_Latn")
    german = tokenizer.tokenizer.convert_tokens_to_ids("deu_Latn")
    assert [tokenizer("a b")[0, 0].item() for _ in range(2)] == [german, german]
    tokenizer.set_language("fra_Latn")
    assert tokenizer("a b")[0, 0].item() == tokenizer.tokenizer.convert_tokens_to_ids("fra_Latn")


def test_a_tokenizer_without_languages_warns(files):
    with pytest.warns(UserWarning, match="Cannot set language"):
        HFTokenizer(files.bert, language="deu_Latn")


def test_files_can_be_saved_and_loaded(files, tmp_path):
    HFTokenizer(files.bert).save_pretrained(tmp_path / "copy")
    assert torch.equal(HFTokenizer(tmp_path / "copy")(TEXTS), HFTokenizer(files.bert)(TEXTS))
    SigLipTokenizer(files.t5).save_pretrained(tmp_path / "siglip")
    assert torch.equal(SigLipTokenizer(tmp_path / "siglip")(TEXTS), SigLipTokenizer(files.t5)(TEXTS))


def test_what_is_not_there_is_said(files, tmp_path):
    with pytest.raises(MissingError, match="no tokenizer"):
        HFTokenizer(tmp_path / "nothing")
    with pytest.raises(MissingError, match="no vocabulary"):
        SigLipTokenizer(tmp_path / "nothing.model")
    with pytest.raises(MissingError, match="published at http"):
        SigLipTokenizer("c4-en")
    (tmp_path / "broken.json").write_text("[]")
    with pytest.raises(CorruptError, match=r"no tokenizer\.json"):
        HFTokenizer(tmp_path / "broken.json")


def test_wrong_arguments(files):
    with pytest.raises(ValueError, match="tokenizer mode"):
        HFTokenizer(files.bert, tokenizer_mode="bert")
    with pytest.raises(ValueError, match="cleaning mode"):
        HFTokenizer(files.bert, clean="no")
    for tokenizer in (HFTokenizer(files.bert, context_length=None), SigLipTokenizer(files.t5, context_length=None)):
        with pytest.raises(ValueError, match="neither"):
            tokenizer("a")


@pytest.mark.parametrize(("module", "make"), [("transformers", HFTokenizer), ("sentencepiece", SigLipTokenizer)])
def test_a_missing_library_is_named_with_its_extra(files, monkeypatch, module, make):
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name == module:
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(MissingError, match=rf"{module}.*clipctl\[hf\]"):
        make(files.t5)


def test_siglip_captions_are_canonical_end_with_1_and_are_padded(files):
    english, gemma = SigLipTokenizer(files.t5), SigLipTokenizer(files.gemma, 16)
    assert english("a").shape == (1, 64)
    assert torch.equal(english("A Photo, of_the cat!"), english("a photo of the cat"))
    assert english("")[0].tolist() == [1] * 64
    assert gemma("")[0].tolist() == [1, *[0] * 15]
    assert english(TEXTS, 8)[3, -1] == 1
    assert english([]).shape == (0, 64)


def test_siglip_from_a_tokenizer_file(files):
    ids = SigLipTokenizer(files.bert)("a photo")[0]
    assert ids[:3].tolist() == [*HFTokenizer(files.bert)("a photo")[0, 1:3].tolist(), 1]


def test_the_configuration_chooses_the_tokenizer(files):
    native = tokenizer_for(text_settings())
    assert isinstance(native, SimpleTokenizer)
    assert native("a").shape == (1, 12)
    settings = text_settings(hf_tokenizer_name=str(files.bert), tokenizer_kwargs={"strip_sep_token": True})
    theirs = tokenizer_for(settings, context_length=9, clean="canonicalize")
    assert isinstance(theirs, HFTokenizer)
    assert theirs("a").shape == (1, 9)
    assert theirs.strip_sep_token
    elsewhere = tokenizer_for(text_settings(hf_tokenizer_name="org/name"), source=files.bert)
    assert torch.equal(elsewhere("a"), HFTokenizer(files.bert, 12)("a"))


def test_models_in_a_folder_bring_their_tokenizer():
    assert tokenizer_folder("local-dir:/models/a:b") == "/models/a:b"
    assert tokenizer_folder("ViT-B-32") is None
    assert tokenizer_folder("hf-hub:org/name") is None


@pytest.mark.parametrize("kind", ["bpe", "kwargs", "hf"])
def test_loader_threads_get_arrays(files, kind):
    settings = {
        "bpe": text_settings(),
        "kwargs": text_settings(tokenizer_kwargs={"clean": "whitespace"}),
        "hf": text_settings(hf_tokenizer_name=str(files.bert)),
    }[kind]
    tokenizer = LoaderTokenizer(settings)
    expected = tokenizer_for(settings)(TEXTS).numpy()
    results = {}

    def work(name):
        results[name] = [tokenizer(TEXTS[: 1 + (name + turn) % 4]) for turn in range(20)]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for name, batches in results.items():
        for turn, ids in enumerate(batches):
            assert ids.dtype == np.int64
            np.testing.assert_array_equal(ids, expected[: 1 + (name + turn) % 4])


def test_the_loader_of_clips_own_tokenizer_needs_no_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert LoaderTokenizer(text_settings())(["a diagram"])[0, :4].tolist() == [49406, 320, 22697, 49407]

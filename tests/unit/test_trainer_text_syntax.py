"""Nouns before adjectives before verbs, with NLTK and data of its own."""

import builtins
import subprocess
import sys

import pytest

from clip_testkit.nltkdata import write_nltk_data
from clip_trainer.text import SimpleTokenizer
from clip_trainer.text.syntax import nouns_first
from clipctl.contract.errors import MissingError


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [str(write_nltk_data(tmp_path / "nltk"))])


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (20, "the big red dog sees a cat on the house"),
        (3, "dog cat house"),
        (5, "big red dog cat house"),
        (6, "big red dog sees cat house"),
    ],
)
def test_words_are_chosen_by_kind_and_stay_in_order(data, limit, expected):
    assert nouns_first("the big red dog sees a cat on the house", limit) == expected


def test_no_words(data):
    assert nouns_first("", 5) == ""


def test_the_tokenizer_uses_it(data):
    tokenizer = SimpleTokenizer(context_length=5, reduction_mask="syntax")
    ids = tokenizer(["the big red dog sees a cat on the house", "the dog", "", "xylophonists " * 9])
    assert ids.tolist()[:3] == SimpleTokenizer(context_length=5)(["dog cat house", "the dog", ""]).tolist()
    assert ids[3].tolist()[0::4] == [49406, 49407]


def test_missing_data_are_named_and_not_downloaded(tmp_path):
    """In a process of its own: NLTK keeps a tagger once it has found one."""
    code = (
        f"import nltk; nltk.data.path = [{str(tmp_path)!r}]\n"
        "from clip_trainer.text.syntax import nouns_first\n"
        "nouns_first('a dog', 1)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingError" in result.stderr
    assert "nltk.downloader punkt_tab averaged_perceptron_tagger_eng" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_missing_nltk_is_named_with_its_extra(monkeypatch):
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name == "nltk":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(MissingError, match=r"clipctl\[syntax\]"):
        nouns_first("a dog", 1)

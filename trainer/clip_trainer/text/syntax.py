"""Which words of a caption carry its meaning: a part-of-speech tagger, from NLTK and its data, both optional."""

from __future__ import annotations

import numpy as np

from clipctl.contract.errors import MissingError

_PRIORITY = ("NN", "JJ", "VB")  # nouns, adjectives, verbs (Penn Treebank tags); then the rest
_DATA = ("punkt_tab", "averaged_perceptron_tagger_eng")


def nouns_first(text: str, limit: int) -> str:
    """At most `limit` words of a text, in their order: nouns before adjectives before verbs before others.

    Raises:
        MissingError: NLTK or its data are not installed; nothing is downloaded.
    """
    try:
        import nltk
    except ModuleNotFoundError:
        raise MissingError(
            "The reduction 'syntax' needs NLTK.", hint="Install it with `pip install 'clipctl[syntax]'`."
        ) from None
    try:
        words = nltk.tokenize.word_tokenize(text)
        tags = [tag for _, tag in nltk.pos_tag(words)]
    except LookupError:
        raise MissingError(
            "The reduction 'syntax' needs data of NLTK that is not installed.",
            hint=f"Run `python -m nltk.downloader {' '.join(_DATA)}`, or set NLTK_DATA to a folder that has it.",
        ) from None
    # Equal priorities are common. The default sort is the one OpenCLIP calls, and picks the same among equals.
    order = np.argsort(np.array([_priority(tag) for tag in tags]))
    return " ".join(words[index] for index in sorted(order[:limit]))


def _priority(tag: str) -> int:
    return next((rank for rank, prefix in enumerate(_PRIORITY) if tag.startswith(prefix)), len(_PRIORITY))

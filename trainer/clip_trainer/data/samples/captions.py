"""Which of a sample's texts is its caption in one turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from clip_trainer.data.shards.sample import MAX_CAPTION, RawSample, UnusableSample

ChooseCaption = Callable[[RawSample, int], str]
"""A sample and a 64-bit key to its caption. Raises UnusableSample if it has none."""

_MEMBER = "txt"
_JSON = "json."


def any_caption(sample: RawSample, key: int) -> str:
    """One of `RawSample.captions`, all being equally probable."""
    captions = sample.captions()
    return captions[key % len(captions)]


def weighted_caption(weights: Mapping[str, float]) -> ChooseCaption:
    """A choice by weights, as `data.captions` of run.yaml describes it.

    Args:
        weights: of `txt` and of `json.FIELD`, positive. Each element of a list has the weight of its field, and texts
            that a sample lacks are left out.
    """
    ordered = sorted(weights.items())  # the same choice however run.yaml lists them

    def choose(sample: RawSample, key: int) -> str:
        texts = list(_texts(sample, ordered))
        if not texts:
            raise UnusableSample("no caption")
        left = (key >> 11) * 2.0**-53 * sum(weight for weight, _ in texts)
        for weight, text in texts:
            left -= weight
            if left < 0:
                return text
        return texts[-1][1]  # rounding

    return choose


def weighted_texts(weights: Mapping[str, float]) -> Callable[[RawSample], tuple[str, ...]]:
    """All captions that `weighted_caption` chooses from. What is returned raises UnusableSample if there is none."""

    def texts(sample: RawSample) -> tuple[str, ...]:
        found = tuple(text for _, text in _texts(sample, sorted(weights.items())))
        if not found:
            raise UnusableSample("no caption")
        return found

    return texts


def _texts(sample: RawSample, weights: Sequence[tuple[str, float]]) -> Iterator[tuple[float, str]]:
    """The texts that a sample has, with their weights."""
    fields = _fields(sample) if any(name.startswith(_JSON) for name, _ in weights) else {}
    for name, weight in weights:
        value = _member(sample) if name == _MEMBER else fields.get(name.removeprefix(_JSON))
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.strip():
                yield weight, text.strip()[:MAX_CAPTION]


def _member(sample: RawSample) -> str | None:
    # Web captions are often cut inside a character; replacing it keeps the rest of the caption.
    payload = sample.members.get(_MEMBER)
    return None if payload is None else payload.decode("utf-8", "replace").removeprefix("\ufeff")


def _fields(sample: RawSample) -> dict[str, object]:
    try:
        content = json.loads(sample.members.get("json", b"{}").decode("utf-8", "replace").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

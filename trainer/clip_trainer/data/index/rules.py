"""Which samples of a shard an index lists: the rules, as pure functions of one sample.

Rules are applied when a data set is indexed, so that training and evaluation see only what is left, exactly counted.
They are part of the index; `clipctl data verify --deep` and indexing again apply the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Set
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from clip_trainer.data.sample_set import Need
from clip_trainer.data.shards.grouping import CAPTION_SUFFIXES, CLASS_SUFFIX, IMAGE_SUFFIXES
from clip_trainer.data.shards.image_header import read_header
from clip_trainer.data.shards.sample import RawSample, UnusableSample
from clipctl.contract.errors import SpecError

Duplicates = Literal["refuse", "keep"]
"""What to do with a key or suffix that comes again: refuse the shard, or start a new sample as OpenCLIP does."""


@dataclass(frozen=True)
class SampleRules:
    """What a sample must be like to be listed. The default lists every sample."""

    needs: tuple[Need, ...] = ()
    """What it must have at all."""
    min_side: int | None = None
    """Least width and height of its image, pixels."""
    max_aspect: float | None = None
    """Greatest ratio of the image's longer to its shorter side."""
    min_caption: int | None = None
    """Least length of each of its captions, characters."""
    max_caption: int | None = None
    """Greatest length of each of its captions, characters."""
    where: tuple[tuple[str, str], ...] = ()
    """Values that keys of its `json` must have; numbers, true, false and null as JSON writes them."""
    duplicates: Duplicates = "refuse"
    """How members are grouped into samples."""

    def __post_init__(self) -> None:
        """Raises SpecError for words that mean nothing, and for limits that nothing can satisfy."""
        for need in self.needs:
            if need not in get_args(Need):
                raise SpecError(f"A sample cannot need {need!r}.", hint=f"Choose from: {', '.join(get_args(Need))}.")
        if self.duplicates not in get_args(Duplicates):
            choices = ", ".join(get_args(Duplicates))
            raise SpecError(f"Duplicates cannot be treated by {self.duplicates!r}.", hint=f"Choose from: {choices}.")
        for name in ("min_side", "max_aspect", "min_caption", "max_caption"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SpecError(f"The limit {name.replace('_', '-')} must be greater than 0, not {value}.")
        if self.max_aspect is not None and self.max_aspect < 1:
            raise SpecError(f"An image's longer side is never less than {self.max_aspect} of its shorter side.")
        if None not in (self.min_caption, self.max_caption) and self.min_caption > self.max_caption:  # type: ignore[operator]
            raise SpecError(f"No caption has at least {self.min_caption} and at most {self.max_caption} characters.")

    @property
    def reads(self) -> frozenset[str]:
        """Suffixes of the members whose content the rules look at."""
        found: set[str] = set()
        if self._limit_image:
            found.update(IMAGE_SUFFIXES)
        if self._limit_caption or "caption" in self.needs:
            found.update(CAPTION_SUFFIXES)
        if self.where:
            found.add("json")
        return frozenset(found)

    def objection(self, suffixes: Set[str], read: RawSample) -> str | None:
        """Why a sample is left out, in few words, or None if it is listed.

        Args:
            suffixes: of all its members.
            read: its members whose suffix is in `reads`.
        """
        if ("image" in self.needs or self._limit_image) and suffixes.isdisjoint(IMAGE_SUFFIXES):
            return "no image"
        if "class" in self.needs and CLASS_SUFFIX not in suffixes:
            return "no class"
        return self._about_captions(read) or self._about_image(read) or self._about_json(read)

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the default, as JSON."""
        default = asdict(SampleRules())
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    @staticmethod
    def from_json(content: dict[str, Any]) -> SampleRules:
        """The rules that `to_json` wrote. Raises TypeError, KeyError or ValueError if it did not write them."""
        content = dict(content)
        content["needs"] = tuple(content.get("needs", ()))
        content["where"] = tuple((str(key), str(value)) for key, value in content.get("where", ()))
        return SampleRules(**content)

    @property
    def _limit_image(self) -> bool:
        return self.min_side is not None or self.max_aspect is not None

    @property
    def _limit_caption(self) -> bool:
        return self.min_caption is not None or self.max_caption is not None

    def _about_captions(self, read: RawSample) -> str | None:
        if "caption" not in self.needs and not self._limit_caption:
            return None
        try:
            lengths = [len(caption) for caption in read.captions()]
        except UnusableSample as problem:
            return problem.reason
        if self.min_caption is not None and min(lengths) < self.min_caption:
            return "caption too short"
        if self.max_caption is not None and max(lengths) > self.max_caption:
            return "caption too long"
        return None

    def _about_image(self, read: RawSample) -> str | None:
        if not self._limit_image:
            return None
        header = read_header(read.image())
        if header is None:
            return "image size unknown"
        short, long = sorted((header.width, header.height))
        if self.min_side is not None and short < self.min_side:
            return "image too small"
        if self.max_aspect is not None and long > self.max_aspect * short:
            return "image too elongated"
        return None

    def _about_json(self, read: RawSample) -> str | None:
        if not self.where:
            return None
        try:
            content = json.loads(read.members["json"])
        except (KeyError, ValueError, RecursionError):
            return "no json"
        for key, wanted in self.where:
            if not isinstance(content, dict) or key not in content or _as_text(content[key]) != wanted:
                return f"other {key}"
        return None


def parse_where(conditions: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Conditions as a user writes them, `key=value`. Raises SpecError."""
    pairs = []
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not key or not equals:
            raise SpecError(f"The condition {condition!r} is not of the form KEY=VALUE.")
        pairs.append((key, value))
    return tuple(pairs)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

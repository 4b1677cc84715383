"""Adds up what was found out about samples, in memory that does not grow with their number."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import xxhash

from clip_trainer.data.check.duplicates import DuplicateFinder
from clip_trainer.data.check.histogram import doubling, histogram
from clip_trainer.data.check.sample import Caption, Finding, Picture
from clip_trainer.text.bpe import CONTEXT_LENGTH

SIDES = (0, 64, 128, 224, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)
"""Bins of the shorter side, pixels: the input sizes of models are borders."""
ASPECTS = (0, 0.25, 0.33, 0.5, 0.67, 0.8, 0.95, 1.05, 1.25, 1.5, 2, 3, 4)
"""Bins of width / height: below 0.95 upright, from 1.05 on lying."""
TOKENS = (0, 8, 16, 24, 32, 48, 64, 78, 128, 256, 512, 1024)
"""Bins of a caption's tokens; 77 fit."""

_EXAMPLES = 5  # keys named for each reason
_NAMES = 64  # different JSON keys, languages, reasons; beyond it they are counted as one
_OTHERS = "(others)"


class Tally:
    """What a number of samples have in common.

    Args:
        previews: samples to remember as a fair draw from those that can be used.
        seed: of that draw.
    """

    def __init__(self, previews: int = 0, seed: int = 0) -> None:
        self.read = 0
        self.bytes = 0
        self.damaged = 0
        self.with_class = 0
        self.problems: Counter[str] = Counter()
        self._previews: list[Finding] = []
        self.pictures = PictureTally()
        self.captions = CaptionTally()
        self._examples: dict[str, list[Finding]] = {}
        self._json_keys: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._keys = DuplicateFinder()
        self._wanted, self._seed = previews, seed
        self._draw = random.Random(seed)  # noqa: S311 - no secret

    @property
    def unusable(self) -> int:
        """Samples that training would have to replace, or stop at."""
        return self.problems.total()

    @property
    def previews(self) -> list[Finding]:
        """Samples drawn from those that can be used, in no order."""
        shuffled = list(self._previews)
        random.Random(self._seed).shuffle(shuffled)  # noqa: S311 - no secret
        return shuffled

    def add(self, found: Finding) -> None:
        """Take in a sample."""
        self.read += 1
        self.bytes += found.bytes
        if found.damage is not None:
            self.damaged += 1
        else:
            self._keys.add(xxhash.xxh3_64_intdigest(found.key.encode("utf-8", "surrogatepass")), found.key)
            self.captions.add(found)
            self.with_class += found.has_class
        if found.picture is not None:
            self.pictures.add(found.picture, found.key)
        for key in found.json_keys:
            _count(self._json_keys, key)
        if found.language is not None:
            _count(self._languages, found.language)
        if found.problem is None:
            self._preview(found)
        else:
            self._note(_count(self.problems, found.problem), found)

    def report(self, shard_name: Callable[[int], str]) -> dict[str, Any]:
        """All of it as JSON, shards by their names."""
        return {
            "read": self.read,
            "bytes": self.bytes,
            "unusable": self.unusable,
            "damaged": self.damaged,
            "with_class": self.with_class,
            "problems": dict(self.problems.most_common()),
            "examples": {
                reason: [{"key": shown(one.key), "shard": shard_name(one.shard), "index": one.index} for one in found]
                for reason, found in self._examples.items()
            },
            "images": self.pictures.report(),
            "captions": self.captions.report(),
            "json_keys": dict(self._json_keys.most_common()),
            "languages": dict(self._languages.most_common()),
            "duplicate_keys": duplicates(self._keys),
        }

    def _preview(self, found: Finding) -> None:
        """Keep a sample with the chance that makes every usable one equally likely (Vitter's algorithm R)."""
        if len(self._previews) < self._wanted:
            self._previews.append(found)
            return
        usable = self.read - self.unusable
        place = self._draw.randrange(usable)
        if place < self._wanted:
            self._previews[place] = found

    def _note(self, reason: str, found: Finding) -> None:
        kept = self._examples.setdefault(reason, [])
        if len(kept) < _EXAMPLES:
            kept.append(found)


class PictureTally:
    """Sizes, shapes and formats of images."""

    def __init__(self) -> None:
        self.count = 0
        self._turned = 0
        self._sides: Counter[int] = Counter()
        self._aspects: Counter[float] = Counter()
        self._formats: Counter[str] = Counter()
        self._modes: Counter[str] = Counter()
        self._same = DuplicateFinder()

    def add(self, picture: Picture, key: str) -> None:
        """Take in an image."""
        self.count += 1
        self._turned += picture.turned
        self._sides[min(picture.width, picture.height)] += 1
        self._aspects[round(picture.width / picture.height, 2)] += 1
        self._formats[picture.format] += 1
        self._modes[picture.mode] += 1
        self._same.add(picture.digest, key)

    def report(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "count": self.count,
            "shorter_side": asdict(histogram(self._sides, SIDES)),
            "aspect": asdict(histogram(self._aspects, ASPECTS)),
            "formats": dict(self._formats.most_common()),
            "modes": dict(self._modes.most_common()),
            "rotated_by_exif": self._turned,
            "duplicates": duplicates(self._same),
        }


class CaptionTally:
    """Lengths and scripts of captions, and where there are none."""

    def __init__(self) -> None:
        self.count = 0
        self._samples = 0
        self._cut = 0
        self._missing: Counter[str] = Counter()
        self._characters: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()
        self._scripts: Counter[str] = Counter()
        self._same = DuplicateFinder()

    def add(self, found: Finding) -> None:
        """Take in the captions of a sample."""
        if found.caption_problem is not None:
            self._missing[found.caption_problem] += 1
        self._samples += bool(found.captions)
        for caption in found.captions:
            self._add(caption, found.key)

    def report(self) -> dict[str, Any]:
        """All of it as JSON."""
        longest = max(self._characters, default=1)
        return {
            "count": self.count,
            "samples": self._samples,
            "missing": dict(self._missing.most_common()),
            "characters": asdict(histogram(self._characters, doubling(longest, 8))),
            "tokens": asdict(histogram(self._tokens, TOKENS)),
            "cut": self._cut,
            "scripts": dict(self._scripts.most_common()),
            "duplicates": duplicates(self._same),
        }

    def _add(self, caption: Caption, key: str) -> None:
        self.count += 1
        self._characters[caption.characters] += 1
        self._tokens[caption.tokens] += 1
        self._cut += caption.tokens > CONTEXT_LENGTH
        _count(self._scripts, caption.script)
        self._same.add(caption.digest, key)


def duplicates(finder: DuplicateFinder) -> dict[str, Any]:
    """What a finder found, as JSON."""
    examples = [shown(name) for name in finder.examples]
    return {"repeats": finder.repeats, "watched_share": finder.share, "examples": examples}


def shown(text: str) -> str:
    """Text from data, fit for a terminal and a report: one line, no halves of characters."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _count(counter: Counter[str], name: str) -> str:
    """Count a name that comes from the data, of which there may be any number; returns what it was counted as."""
    name = shown(name)[:60]
    if name not in counter and len(counter) >= _NAMES:
        name = _OTHERS
    counter[name] += 1
    return name

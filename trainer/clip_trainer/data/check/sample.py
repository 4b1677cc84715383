"""What one sample is like: is there a picture that can be decoded, are there captions, how long are they."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import xxhash
from PIL import ExifTags, Image

from clip_trainer.data.check.script import script_of
from clip_trainer.data.shards.grouping import CAPTION_SUFFIXES, CLASS_SUFFIX
from clip_trainer.data.shards.sample import RawSample, UnusableSample
from clip_trainer.vision.decode import UndecodableImage, decode_image

CountTokens = Callable[[str], int]
"""Tokens of a caption before it is cut, start and end included."""

_LANGUAGE_KEYS = ("language", "lang", "LANGUAGE", "LANG")
_TEXTS = {*CAPTION_SUFFIXES, CLASS_SUFFIX}
_UNKNOWN = "unknown"
_PREVIEW = 400  # characters of a caption that previews may show


@dataclass(frozen=True)
class Picture:
    """What is known of an image that can be decoded."""

    width: int
    height: int
    format: str
    mode: str
    turned: bool
    """Its EXIF data ask for a rotation, which training does not do."""
    digest: int
    """64 bits over the encoded bytes."""


@dataclass(frozen=True)
class Caption:
    """What is known of a caption."""

    characters: int
    tokens: int
    script: str
    digest: int


@dataclass(frozen=True)
class Finding:
    """What was found out about one sample."""

    shard: int
    index: int
    key: str
    bytes: int = 0
    """Size of what was looked at."""
    picture: Picture | None = None
    picture_problem: str | None = None
    captions: tuple[Caption, ...] = ()
    caption_problem: str | None = None
    text: str = ""
    """The beginning of its first caption."""
    has_class: bool = False
    class_problem: str | None = None
    json_keys: tuple[str, ...] = ()
    language: str | None = None
    """What its JSON says about the language of the caption."""
    damage: str | None = None
    """The stored bytes are not those that were indexed; nothing else is known then."""

    @property
    def problem(self) -> str | None:
        """Why training or evaluation could not use it; a class is enough where there is no caption."""
        labelled = self.captions or self.has_class
        return self.damage or self.picture_problem or (None if labelled else self.class_problem or self.caption_problem)


@dataclass(frozen=True)
class Examiner:
    """Looks at samples as a run would."""

    count_tokens: CountTokens
    max_pixels: int
    """Larger images cannot be used."""
    captions: Callable[[RawSample], tuple[str, ...]] = RawSample.captions
    """All captions of a sample. Raises UnusableSample if there is none."""

    def examine(self, sample: RawSample, shard: int, index: int) -> Finding:
        """Look at everything a sample has."""
        data, problem = _image(sample)
        picture, problem = (None, problem) if data is None else _picture(data, self.max_pixels)
        described = _json(sample)
        captions, caption_problem = self._captions(sample, described)
        has_class, class_problem = _class(sample)
        return Finding(
            shard=shard,
            index=index,
            key=sample.key,
            bytes=len(data or b"") + sum(len(sample.members[suffix]) for suffix in _TEXTS & sample.members.keys()),
            picture=picture,
            picture_problem=problem,
            captions=tuple(_caption(text, self.count_tokens) for text in captions),
            caption_problem=caption_problem,
            text=captions[0][:_PREVIEW] if captions else "",
            has_class=has_class,
            class_problem=class_problem,
            json_keys=tuple(described),
            language=next((str(described[key])[:20] for key in _LANGUAGE_KEYS if described.get(key)), None),
        )

    def _captions(self, sample: RawSample, described: Mapping[str, object]) -> tuple[tuple[str, ...], str | None]:
        try:
            return self.captions(sample), None
        except UnusableSample:
            return (), "empty caption" if _has_blank_caption(sample, described) else "no caption"


def _has_blank_caption(sample: RawSample, described: Mapping[str, object]) -> bool:
    """Whether there is a place for a caption with nothing in it."""
    if "txt" not in sample.members and described.keys().isdisjoint(("captions", "caption")):
        return False
    try:
        return not sample.captions()
    except UnusableSample:
        return True


def _image(sample: RawSample) -> tuple[bytes | None, str | None]:
    try:
        return sample.image(), None
    except UnusableSample as error:
        return None, error.reason


def _picture(data: bytes, max_pixels: int) -> tuple[Picture | None, str | None]:
    try:
        height, width, _ = decode_image(data, max_pixels=max_pixels).shape
    except UndecodableImage as error:
        # Numbers inside a reason (sizes, offsets) would make every sample a reason of its own.
        return None, re.sub(r"\d+", "N", error.reason)
    kind, mode, turned = _header(data)
    return Picture(width, height, kind, mode, turned, xxhash.xxh3_64_intdigest(data)), None


def _header(data: bytes) -> tuple[str, str, bool]:
    """Format, colours, and whether the EXIF data ask for a rotation."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
            return image.format or _UNKNOWN, image.mode, turned
    except Exception:  # Pillow raises nearly anything on odd headers; the image was decoded, so it can be used
        return _UNKNOWN, _UNKNOWN, False


def _class(sample: RawSample) -> tuple[bool, str | None]:
    try:
        return sample.class_number() is not None, None
    except UnusableSample as error:
        return False, error.reason


def _caption(text: str, count_tokens: CountTokens) -> Caption:
    digest = xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
    return Caption(len(text), count_tokens(text), script_of(text), digest)


def _json(sample: RawSample) -> dict[str, object]:
    """The JSON member's object, or an empty one."""
    try:
        content = json.loads(sample.members.get("json", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

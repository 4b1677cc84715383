"""Whatever bytes a sample holds, looking at it gives a finding, and what is shown of it is one clean line."""

import functools
import io
import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len

from clip_testkit.pictures import picture, rotated_by_exif
from clip_trainer.data.check.contact_sheet import Cell, contact_sheet
from clip_trainer.data.check.sample import Examiner
from clip_trainer.data.check.tally import Tally
from clip_trainer.data.shards.sample import RawSample
from clip_trainer.text.bpe import BpeTokenizer
from clip_trainer.vision.decode import decode_image
from clipctl.dataview import check_lines

MAX_PIXELS = 10**6


@functools.cache
def examiner():
    tokenizer = BpeTokenizer()
    return Examiner(lambda text: len(tokenizer.encode(text)) + 2, MAX_PIXELS)


def look(members, key="key"):
    return examiner().examine(RawSample(key, members), 0, 0)


@functools.cache
def files():
    """Small image files of every format that is decoded."""
    encoded = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        picture(9, 13, seed=5).save(buffer, kind)
        encoded.append(buffer.getvalue())
    buffer = io.BytesIO()
    turned = rotated_by_exif(12, 10)
    turned.save(buffer, "JPEG", exif=turned.getexif())
    encoded.append(buffer.getvalue())
    return encoded


def consistent(found):
    """What holds for every finding."""
    assert (found.picture is None) == (found.picture_problem is not None)
    assert bool(found.captions) == (found.caption_problem is None)
    if found.problem is None:
        assert found.picture is not None
        assert found.captions or found.has_class
    for caption in found.captions:
        assert caption.characters > 0
        assert caption.tokens >= 2
    return found


@given(
    st.dictionaries(
        st.sampled_from(["jpg", "jpeg", "png", "webp", "txt", "json", "cls"]), st.binary(max_size=200), max_size=5
    )
)
def test_any_bytes(members):
    consistent(look(members))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 6), st.integers(0, 2**32), st.integers(1, 8))
def test_damaged_image_files(number, seed, flips):
    data, chance = bytearray(files()[number]), random.Random(seed)
    for _ in range(flips):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    found = consistent(look({"jpg": bytes(data), "txt": b"x"}))
    if found.picture is not None:
        assert decode_image(bytes(data), max_pixels=MAX_PIXELS).shape[:2] == (found.picture.height, found.picture.width)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    ),
    st.sampled_from(["caption", "captions", "language", "LANGUAGE", "other"]),
)
def test_any_json(value, key):
    found = consistent(look({"png": files()[1], "json": json.dumps({key: value}).encode()}))
    assert found.language is None or len(found.language) <= 20


def report_of(found):
    tally = Tally(previews=1)
    tally.add(found)
    previews = [{"key": found.key, "width": 1, "height": 1, "format": "PNG", "caption": found.text}]
    shared = {"data": "d", "samples": 1, "seed": 0, "sheet": None, "verdict": "OK"}
    return json.loads(json.dumps({**tally.report(str), **shared, "previews": previews}))


@settings(deadline=None)
@example("k", "\u200d" * 300)
@example("\ud800", "赤" * 300)
@given(st.text(st.characters(exclude_categories=["Cc"]), max_size=60), st.text(max_size=300))
def test_any_key_and_caption_can_be_shown(key, text):
    caption = text.encode("utf-8", "replace")
    found = consistent(look({"png": files()[1], "txt": caption, "json": json.dumps({key: 1}).encode()}, key))
    if found.captions:
        assert found.captions[0].characters <= len(text)
    report = report_of(found)
    for name in report["json_keys"]:
        assert "\n" not in name
        name.encode()
    for line in check_lines({**report, "previews": []}, 80):
        assert cell_len(line) <= 140


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=120), st.integers(1, 40), st.integers(1, 40))
def test_any_caption_can_be_drawn(text, height, width):
    pixels = decode_image(_png(height, width))
    sheet = contact_sheet([Cell(pixels, text, text)])
    assert sheet.size == contact_sheet([Cell(pixels, "", "")]).size


@functools.cache
def _png(height, width):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", range(7))
def test_every_cut_of_an_image_file_is_looked_at(kind):
    """Downloads that ended early: no length of a file raises anything."""
    data = files()[kind]
    for length in range(0, len(data), max(1, len(data) // 60)):
        consistent(look({"jpg": data[:length], "txt": b"x"}))

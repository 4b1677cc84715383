"""Bodies of answers: images by their content, never by what a server calls them, and never decoded."""

import io
import struct
import sys
import zlib

import pytest
from PIL import Image

from clip_trainer.data.gather.errors import GatherError
from clip_trainer.data.gather.image import checked_image
from clip_trainer.data.writing.image import StoredImage
from clip_trainer.data.writing.image_resize import MAX_PIXELS, Resize


def encoded(kind, size=(20, 10)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 100, 0)).save(buffer, kind)
    return buffer.getvalue()


def huge_png(width, height):
    """A PNG of a few bytes whose header promises any number of pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def reason(data, **options):
    with pytest.raises(GatherError) as caught:
        checked_image(data, **options)
    assert not caught.value.transient
    assert caught.value.code == 200
    return caught.value.reason


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_images_are_known_by_their_content(kind, suffix):
    data = encoded(kind)
    assert checked_image(data) == StoredImage(suffix, data, (20, 10), (20, 10))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "AVIF"])
def test_formats_that_data_sets_do_not_hold(kind):
    assert reason(encoded(kind)) == "unsupported-format"


@pytest.mark.parametrize(
    "data", [b"", b"<!DOCTYPE html><html>", b"<svg/>", b"\xff\xd8", b"RIFF\0\0\0\0WAVEfmt ", b"\0" * 64]
)
def test_bodies_that_are_no_images(data):
    assert reason(data) == "not-an-image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_header_that_breaks_off(kind):
    data = encoded(kind)
    assert reason(data[:18]) == "broken-image"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_header_that_is_damaged(kind):
    damaged = bytearray(encoded(kind))
    damaged[12:40] = b"\xfe" * 28
    assert reason(bytes(damaged)) == "broken-image"


def test_pixels_are_counted_before_anything_is_decoded():
    assert reason(huge_png(100_000, 100_000)) == "too-many-pixels"
    assert checked_image(huge_png(9000, 9000)).size == (9000, 9000)
    assert reason(huge_png(9000, 9000), max_pixels=80_999_999) == "too-many-pixels"
    assert reason(encoded("JPEG"), max_pixels=199) == "too-many-pixels"
    assert checked_image(encoded("JPEG"), max_pixels=200).size == (20, 10)


def test_images_without_pixels():
    assert reason(huge_png(0, 10)) == "broken-image"


def test_the_limit_is_that_of_training():
    from clip_trainer.vision.decode import MAX_PIXELS as OF_TRAINING

    assert MAX_PIXELS == OF_TRAINING


def test_larger_images_are_made_smaller_and_others_stay():
    large = checked_image(encoded("PNG", (80, 40)), resize=Resize(20))
    assert (large.suffix, large.size, large.original) == ("jpg", (40, 20), (80, 40))
    with Image.open(io.BytesIO(large.data)) as image:
        assert (image.format, image.size) == ("JPEG", (40, 20))
    small = encoded("PNG", (20, 10))
    assert checked_image(small, resize=Resize(20)) == StoredImage("png", small, (20, 10), (20, 10))


def test_other_formats_are_converted_where_images_are_encoded_anyway():
    found = checked_image(encoded("GIF"), resize=Resize(64))
    assert (found.suffix, found.size) == ("jpg", (20, 10))
    assert reason(encoded("TIFF"), resize=Resize(64)) == "unsupported-format"


def test_an_image_that_cannot_be_made_smaller():
    assert reason(encoded("PNG", (300, 300))[:90], resize=Resize(20)) == "broken-image"
    assert reason(huge_png(9000, 9000), resize=Resize(20), max_pixels=100) == "too-many-pixels"


def test_images_are_checked_without_an_image_library(monkeypatch):
    data = encoded("WEBP")
    for name in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert checked_image(data).suffix == "webp"

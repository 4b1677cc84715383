"""Sizes from headers agree with Pillow's, and damage is noticed instead of believed."""

import io
import random
import struct

import pytest
from PIL import Image

from clip_trainer.data.shards.image_header import ImageHeader, read_header

KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


def encoded(form, size=(37, 21), mode="RGB", **options):
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (37, 21), (300, 2), (257, 1030)])
def test_sizes_are_pillows(form, size):
    assert read_header(encoded(form, size)) == ImageHeader(KINDS[form], *size)


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"exif": b"Exif\0\0" + bytes(3000), "comment": b"c" * 500}),
        ("PNG", "P", {}),
        ("PNG", "I;16", {}),
        ("PNG", "1", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {}),
        ("WEBP", "RGB", {"exif": b"Exif\0\0abc"}),
    ],
)
def test_variants(form, mode, options):
    assert read_header(encoded(form, mode=mode, **options)) == ImageHeader(KINDS[form], 37, 21)


def test_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_header(encoded("JPEG", exif=exif)) == ImageHeader("jpg", 37, 21)


def test_fill_bytes_and_lone_markers_between_segments():
    data = encoded("JPEG")
    assert read_header(data[:2] + b"\xff\xff\xff\x01\xff\xff" + data[3:]) == ImageHeader("jpg", 37, 21)


def test_a_bitmap_from_top_to_bottom():
    data = bytearray(encoded("BMP"))
    data[22:26] = struct.pack("<i", -21)
    assert read_header(bytes(data)) == ImageHeader("bmp", 37, 21)


@pytest.mark.parametrize("data", [b"", b"\xff", b"hello", b"<html></html>", bytes(100), b"II*\0" + bytes(50)])
def test_other_files(data):
    assert read_header(data) is None


@pytest.mark.parametrize("form", KINDS)
def test_every_truncation_of_a_header_is_noticed(form):
    data = encoded(form)
    sizes = {read_header(data[:length]) for length in range(len(data))}
    assert sizes <= {None, ImageHeader(KINDS[form], 37, 21)}
    assert read_header(data[:9]) is None


@pytest.mark.parametrize("form", KINDS)
def test_random_damage_never_raises(form):
    draw = random.Random(form)
    data = encoded(form)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(4):
            damaged[draw.randrange(min(64, len(data)))] = draw.randrange(256)
        header = read_header(bytes(damaged))
        assert header is None or (header.width > 0 and header.height > 0)


def test_an_image_of_no_pixels_is_none():
    data = bytearray(encoded("PNG"))
    data[16:20] = bytes(4)
    assert read_header(bytes(data)) is None


def test_garbage_where_a_jpeg_marker_should_be():
    assert read_header(b"\xff\xd8\xff\xe0\x00\x02" + b"xx" * 20) is None

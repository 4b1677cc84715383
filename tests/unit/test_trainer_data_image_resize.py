"""Making images smaller: what training would see, smaller, in every mode an image can have."""

import builtins
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from clip_trainer.data.writing.image_resize import Resize, Undecodable, prepare_pillow
from clip_trainer.vision.decode import decode_image
from clipctl.contract.errors import SpecError

WIDTH, HEIGHT = 96, 64


@pytest.fixture(autouse=True)
def pillow():
    prepare_pillow()


def gradient(mode):
    """A smooth picture, so that encoding it costs little."""
    x, y = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    image = Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((x * 2).astype(np.uint16))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(y.astype(np.uint8)))
    return image.convert(mode)


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert not image.getexif()
        assert "icc_profile" not in image.info
        return np.asarray(image, int)


CASES = [
    ("RGB", "JPEG", {}),
    ("L", "JPEG", {}),
    ("CMYK", "JPEG", {}),
    ("RGB", "PNG", {}),
    ("P", "PNG", {}),
    ("P", "PNG", {"transparency": 3}),
    ("1", "PNG", {}),
    ("LA", "PNG", {}),
    ("RGBA", "PNG", {}),
    ("I;16", "PNG", {}),
    ("RGBA", "WEBP", {"lossless": True}),
    ("P", "GIF", {}),
    ("RGB", "BMP", {}),
    ("RGB", "TIFF", {}),
    ("RGB", "PPM", {}),
]


@pytest.mark.parametrize(("mode", "form", "options"), CASES)
def test_the_pixels_are_those_that_training_decodes_smaller(mode, form, options):
    """The independent way: decode as the loader does, shrink those pixels, and compare."""
    data = encoded(gradient(mode), form, **options)
    small, size, original = Resize(32).apply(data)
    assert (size, original) == ((48, 32), (WIDTH, HEIGHT))
    seen = Image.fromarray(decode_image(data)).resize((48, 32), Image.Resampling.BICUBIC)
    difference = np.abs(pixels(small) - np.asarray(seen, int))
    limit = 40 if mode in ("1", "P") else 3  # dithering is noise, which a JPEG does not keep
    assert difference.mean() < limit


def test_orientation_is_ignored_as_in_training_and_then_gone():
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer would turn it
    data = encoded(gradient("RGB"), "JPEG", exif=exif, icc_profile=b"not a profile")
    small, size, _ = Resize(32).apply(data)
    assert size == (48, 32)
    assert pixels(small).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("shortest", (48, 32)), ("longest", (32, 21)), ("crop", (32, 32))],
)
def test_modes(mode, expected):
    small, size, _ = Resize(32, mode).apply(encoded(gradient("RGB"), "PNG"))
    assert size == expected
    assert pixels(small).shape == (*expected[::-1], 3)


def test_the_crop_is_the_middle():
    small, _, _ = Resize(32, "crop", quality=100).apply(encoded(gradient("RGB"), "PNG"))
    red = pixels(small)[:, :, 0].mean(axis=0)
    assert abs((red[0] + red[-1]) / 2 - 127.5) < 3
    assert red[0] > 30


@pytest.mark.parametrize(
    ("mode", "size", "shrinks"),
    [
        ("shortest", (100, 32), False),
        ("shortest", (33, 33), True),
        ("longest", (32, 10), False),
        ("longest", (33, 10), True),
        ("crop", (32, 32), False),
        ("crop", (20, 40), True),
    ],
)
def test_what_is_small_enough(mode, size, shrinks):
    assert Resize(32, mode).shrinks(*size) is shrinks


@pytest.mark.parametrize("mode", ["shortest", "longest", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (31, 40), (1000, 999), (5000, 3)])
def test_nothing_grows_and_nothing_vanishes(mode, size):
    width, height = Resize(32, mode).scaled(*size)
    assert 1 <= width <= size[0]
    assert 1 <= height <= size[1]


def test_a_narrow_image_is_cropped_in_one_direction_only():
    _, size, original = Resize(32, "crop").apply(encoded(Image.new("RGB", (10, 100)), "PNG"))
    assert (size, original) == ((10, 32), (10, 100))


def test_quality_matters():
    data = encoded(Image.effect_noise((64, 64), 80), "PNG")
    assert len(Resize(32, quality=95).apply(data)[0]) > len(Resize(32, quality=30).apply(data)[0])


def test_the_same_bytes_every_time():
    data = encoded(gradient("RGB"), "JPEG")
    assert Resize(32).apply(data)[0] == Resize(32).apply(data)[0]


def test_a_huge_jpeg_is_decoded_smaller_with_hardly_a_difference():
    noise = Image.effect_noise((80, 60), 60).resize((800, 600), Image.Resampling.BICUBIC).convert("RGB")
    data = encoded(noise, "JPEG", quality=90)
    small, size, original = Resize(60, quality=100).apply(data)
    assert (size, original) == ((80, 60), (800, 600))
    exact = noise.resize((80, 60), Image.Resampling.BICUBIC)
    assert np.abs(pixels(small) - np.asarray(exact, int)).mean() < 2


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0 no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_no_images(data):
    with pytest.raises(Undecodable, match="cannot be decoded"):
        Resize(8).apply(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_truncated_images(form):
    data = encoded(gradient("RGB"), form)
    with pytest.raises(Undecodable, match="cannot be decoded"):
        Resize(8).apply(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("limit", [WIDTH * HEIGHT - 1, WIDTH * HEIGHT // 3])
def test_bombs_are_refused_before_they_are_decoded(monkeypatch, limit):
    monkeypatch.setattr("clip_trainer.data.writing.image_resize.MAX_PIXELS", limit)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", limit)
    with pytest.raises(Undecodable, match="too many pixels"):
        Resize(8).apply(encoded(gradient("RGB"), "PNG"))


def test_the_options_name_the_encoder():
    options = Resize(32, "crop", 80).options()
    assert (options["size"], options["mode"], options["quality"]) == (32, "crop", 80)
    assert options["encoder"].startswith("Pillow ")


def test_without_pillow_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SpecError) as caught:
        prepare_pillow()
    assert "pip install pillow" in caught.value.hint


def test_the_module_itself_imports_no_image_library():
    script = (
        "import sys, clip_trainer.data.writing.image_resize, clip_trainer.data.pack.pack; print('PIL' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Image bytes to pixels: what Pillow sees, or a reason."""

import contextlib
import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from clip_trainer.vision import UndecodableImage, decode_image


def picture(height=24, width=40, channels=3, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (6, 10, channels), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pillow(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def palette_with_transparency():
    image = Image.fromarray(picture()).quantize(16)
    return encoded(image, "PNG", transparency=bytes(range(0, 160, 10)))


RGB = Image.fromarray(picture())
FILES = {
    "jpeg": encoded(RGB, "JPEG", quality=90),
    "jpeg 4:4:4": encoded(RGB, "JPEG", subsampling=0),
    "jpeg progressive": encoded(RGB, "JPEG", progressive=True),
    "jpeg gray": encoded(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "png": encoded(RGB, "PNG"),
    "png rgba": encoded(Image.fromarray(picture(channels=4)), "PNG"),
    "png gray": encoded(RGB.convert("L"), "PNG"),
    "png gray alpha": encoded(RGB.convert("LA"), "PNG"),
    "png palette": encoded(RGB.quantize(16), "PNG"),
    "png palette transparency": palette_with_transparency(),
    "png 1 bit": encoded(RGB.convert("1"), "PNG"),
    "png 16 bit": encoded(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG"),
    "webp": encoded(RGB, "WEBP"),
    "gif": encoded(RGB, "GIF"),
    "bmp": encoded(RGB, "BMP"),
    "tiff": encoded(RGB, "TIFF"),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_pillows(name):
    pixels = decode_image(FILES[name])
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, pillow(FILES[name]))


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_the_first_frame_of_an_animation(form, options):
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=40, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert np.array_equal(decode_image(data), pillow(data))


def test_orientation_in_metadata_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    data = encoded(RGB, "JPEG", exif=exif)
    assert decode_image(data).shape == (24, 40, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (b"\xff\xd8", "not an image"),
        (b"\xff\xd8\xff\xe0 nothing", None),
        (FILES["jpeg"][:200], None),
        (FILES["png"][: len(FILES["png"]) // 2], "damaged"),
        (FILES["png"][:30], None),
        (FILES["webp"][:60], None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%PDF-1.4", "not an image"),
    ],
)
def test_what_is_no_image_has_a_reason(data, reason):
    with pytest.raises(UndecodableImage) as caught:
        decode_image(data)
    assert caught.value.reason
    assert isinstance(caught.value, ValueError)
    if reason is not None:
        assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "jpeg gray", "jpeg cmyk", "webp", "gif"])
@pytest.mark.parametrize("share", [0.5, 0.66, 0.9])
def test_a_part_of_a_file_is_refused_rather_than_half_gray(name, share):
    with pytest.raises(UndecodableImage):
        decode_image(FILES[name][: int(len(FILES[name]) * share)])


def test_a_jpeg_that_claims_to_be_huge_is_refused_by_its_header():
    data = bytearray(FILES["jpeg"])
    frame = data.index(b"\xff\xc0") + 5
    data[frame : frame + 4] = struct.pack(">HH", 65_500, 65_500)
    with pytest.raises(UndecodableImage, match="too many pixels: 65500x65500"):
        decode_image(bytes(data))


@pytest.mark.parametrize(("side", "divisor"), [(255, 1), (256, 2), (511, 2), (512, 4), (1024, 8), (4096, 8)])
def test_large_jpegs_may_be_decoded_at_a_fraction_of_their_size(side, divisor):
    data = encoded(Image.fromarray(picture(side, side + 8)), "JPEG")
    assert decode_image(data, enough=128).shape == (-(-side // divisor), -(-(side + 8) // divisor), 3)
    assert decode_image(data).shape == (side, side + 8, 3)


def test_other_formats_and_images_that_are_not_large_are_decoded_in_full():
    for name, data in FILES.items():
        assert np.array_equal(decode_image(data, enough=20), pillow(data)), name


def test_a_fraction_of_the_size_is_close_to_the_whole_once_both_are_resized():
    for seed in range(4):
        data = encoded(Image.fromarray(picture(1200, 1600, seed=seed)), "JPEG", quality=90)
        exact, close = (
            np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC)).astype(int)
            for pixels in (decode_image(data), decode_image(data, enough=448))
        )
        assert np.abs(exact - close).mean() < 3


def test_flipped_bytes_never_raise_anything_else():
    generator = np.random.default_rng(0)
    for name in ("jpeg", "png", "webp", "gif"):
        for _ in range(60):
            data = bytearray(FILES[name])
            for position in generator.integers(0, len(data), 4):
                data[position] = int(generator.integers(0, 256))
            with contextlib.suppress(UndecodableImage):
                assert decode_image(bytes(data), max_pixels=100_000).ndim == 3


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_large_images_are_refused_by_their_header(name):
    with pytest.raises(UndecodableImage, match="too many pixels: 40x24"):
        decode_image(FILES[name], max_pixels=40 * 24 - 1)
    assert decode_image(FILES[name], max_pixels=40 * 24).shape == (24, 40, 3)


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_is_refused_without_a_warning(side):
    """A PNG header that promises more pixels than Pillow warns about (12,000) or accepts (60,000)."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(UndecodableImage, match="too many pixels"):
        decode_image(data)


def test_the_filter_for_warnings_is_added_once(monkeypatch):
    added, others = [], []

    class Filters(list):
        def __contains__(self, wanted):
            missing = not super().__contains__(wanted)
            if missing and not others:  # another thread begins to decode just now, and gets as far as it can
                others.append(threading.Thread(target=decode_image, args=(FILES["gif"],)))
                others[0].start()
                others[0].join(0.2)
            return not missing

    add = warnings.filterwarnings
    monkeypatch.setattr(warnings, "filters", Filters(f for f in warnings.filters if f[0] != "ignore"))
    monkeypatch.setattr(warnings, "filterwarnings", lambda *rule, **more: added.append(rule) or add(*rule, **more))
    decode_image(FILES["gif"])
    others[0].join(60)
    assert len(added) == 1


def test_threads_decode_without_touching_each_others_warnings():
    data = FILES["png palette transparency"]
    failures = []

    def work():
        for _ in range(20):
            try:
                decode_image(data)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", UserWarning, stacklevel=1)

"""One sample under the eye of `clipctl data check`."""

import io
import json

import pytest
from PIL import Image

from clip_testkit.pictures import picture, rotated_by_exif
from clip_trainer.data.check.sample import Examiner
from clip_trainer.data.samples.captions import weighted_texts
from clip_trainer.data.shards.sample import RawSample


def encoded(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"exif": image.getexif()} if image.getexif() else {}))
    return buffer.getvalue()


JPEG = encoded(picture(40, 60), "JPEG")


def look(members, **given):
    examiner = Examiner(lambda text: len(text.split()) + 2, 10**6, **given)
    return examiner.examine(RawSample("key", members), 3, 5)


def test_a_whole_sample():
    found = look({"jpg": JPEG, "txt": b"a cat on a sofa"})
    assert (found.shard, found.index, found.key) == (3, 5, "key")
    assert found.bytes == len(JPEG) + 15
    assert found.problem is None
    assert (found.picture.width, found.picture.height) == (60, 40)
    assert (found.picture.format, found.picture.mode, found.picture.turned) == ("JPEG", "RGB", False)
    (caption,) = found.captions
    assert (caption.characters, caption.tokens, caption.script) == (15, 7, "Latin")
    assert found.text == "a cat on a sofa"


@pytest.mark.parametrize(
    ("suffix", "kind", "mode"),
    [("png", "PNG", "RGBA"), ("png", "PNG", "L"), ("webp", "WEBP", "RGB"), ("jpg", "GIF", "P")],
)
def test_formats_are_told_by_content_not_by_name(suffix, kind, mode):
    found = look({suffix: encoded(picture(8, 9, mode), kind), "txt": b"x"})
    assert (found.picture.format, found.picture.mode) == (kind, mode)


def test_a_header_that_pillow_refuses_does_not_make_a_decoded_image_unusable(monkeypatch):
    def refuse(file):
        raise SyntaxError("no marker found")

    monkeypatch.setattr(Image, "open", refuse)
    found = look({"jpg": JPEG, "txt": b"x"})  # libjpeg decodes it
    assert found.problem is None
    assert (found.picture.width, found.picture.height, found.picture.format) == (60, 40, "unknown")


def test_an_image_that_a_camera_turned():
    turned = encoded(rotated_by_exif(20, 30), "JPEG")
    found = look({"jpg": turned, "txt": b"x"})
    assert found.picture.turned
    assert (found.picture.width, found.picture.height) == (30, 20)  # as training sees it
    assert found.problem is None


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"txt": b"x"}, "no image"),
        ({"jpg": b"<html>", "txt": b"x"}, "not an image"),
        ({"jpg": b"", "txt": b"x"}, "not an image"),
        ({"jpg": JPEG}, "no caption"),
        ({"jpg": JPEG, "json": b'{"width": 3}'}, "no caption"),
        ({"jpg": JPEG, "json": b"{damaged"}, "no caption"),
        ({"jpg": JPEG, "txt": b" \n"}, "empty caption"),
        ({"jpg": JPEG, "json": b'{"caption": null}'}, "empty caption"),
        ({"jpg": JPEG, "json": b'{"captions": []}'}, "empty caption"),
        ({"jpg": JPEG, "cls": b"seven"}, "class is not a number"),
    ],
)
def test_what_keeps_a_sample_from_being_used(members, problem):
    assert look(members).problem == problem


def test_reasons_do_not_depend_on_numbers_in_them():
    large = [encoded(Image.new("1", (1000, height)), "PNG") for height in (1001, 2002)]
    assert {look({"png": data, "txt": b"x"}).problem for data in large} == {"too many pixels: NxN"}
    cut = encoded(picture(90, 90), "PNG")
    problems = {look({"png": cut[:-length], "txt": b"x"}).problem for length in (900, 1900)}
    assert len(problems) == 1
    assert "truncated" in problems.pop()


def test_a_class_is_enough_without_a_caption():
    found = look({"jpg": JPEG, "cls": b"7"})
    assert found.problem is None
    assert found.has_class
    assert found.caption_problem == "no caption"


def test_a_caption_is_enough_beside_a_damaged_class():
    found = look({"jpg": JPEG, "cls": b"seven", "txt": b"x"})
    assert found.problem is None
    assert found.class_problem == "class is not a number"


def test_several_captions_and_what_else_the_json_holds():
    about = {"captions": ["one", "два три"], "LANGUAGE": "ru", "width": 60}
    found = look({"jpg": JPEG, "json": json.dumps(about).encode()})
    assert [caption.tokens for caption in found.captions] == [3, 4]
    assert [caption.script for caption in found.captions] == ["Latin", "Cyrillic"]
    assert found.json_keys == ("captions", "LANGUAGE", "width")
    assert found.language == "ru"


@pytest.mark.parametrize("payload", [b"[1, 2]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_no_object(payload):
    found = look({"jpg": JPEG, "txt": b"x", "json": payload})
    assert (found.json_keys, found.language, found.problem) == ((), None, None)


def test_equal_images_and_captions_have_equal_digests():
    one, same, other = (
        look({"jpg": JPEG + tail, "txt": text}) for tail, text in ((b"", b"x"), (b"", b"x "), (b"0", b"y"))
    )
    assert one.picture.digest == same.picture.digest != other.picture.digest
    assert one.captions[0].digest == same.captions[0].digest != other.captions[0].digest


def test_captions_as_the_run_chooses_them():
    members = {"jpg": JPEG, "txt": b"alt text", "json": b'{"caption": "other", "long": ["a cat", "a grey cat"]}'}
    captions = weighted_texts({"json.long": 3.0, "txt": 1.0})
    assert [caption.characters for caption in look(members, captions=captions).captions] == [5, 10, 8]
    assert look({"jpg": JPEG, "json": b"{}"}, captions=captions).problem == "no caption"


def test_halves_of_characters_do_no_harm():
    found = look({"jpg": JPEG, "json": b'{"caption": "\\ud800 half"}'})
    assert found.captions[0].characters == 6


def test_the_preview_of_a_long_caption_is_bounded():
    assert len(look({"jpg": JPEG, "txt": b"word " * 5000}).text) == 400

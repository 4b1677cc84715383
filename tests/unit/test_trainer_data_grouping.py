"""Keys and suffixes of members, and what a sample says."""

import json

import pytest

from clip_testkit.shards import sample_members, tar_bytes
from clip_trainer.data.shards.grouping import split_name
from clip_trainer.data.shards.sample import MAX_CAPTION, RawSample, UnusableSample, parse_sample
from clipctl.contract.errors import CorruptError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", ("a", "jpg")),
        ("d.x/a.JPG", ("d.x/a", "jpg")),
        ("./d/a.seg.png", ("./d/a", "seg.png")),
        ("../a.jpg", ("../a", "jpg")),
        ("/a.jpg", ("/a", "jpg")),
        ("a.", ("a", "")),
        ("a", None),
        ("d.x/a", None),
        (".hidden", None),
        ("d/.hidden", None),
        ("__meta__", None),
        ("__index__/a.txt", None),
        ("", None),
    ],
)
def test_split_name(name, expected):
    assert split_name(name) == expected


def fragment(members):
    return tar_bytes(members)[: -(-sum(512 + len(d) + -len(d) % 512 for _, d in members) // 512) * 512]


def test_a_sample_is_taken_apart():
    sample = parse_sample(fragment(sample_members(5, captions=["one", "two"], cls=7)), "x.tar")
    assert sample.key == "000005"
    assert set(sample.members) == {"png", "txt", "json", "cls"}
    assert sample.captions() == ("one", "two")
    assert sample.class_number() == 7
    assert sample.image() == sample.members["png"]


def test_members_that_could_be_code_are_passed_over_unread():
    members = [("a.pkl", b"cos\nsystem\n"), *[("a." + s, b"x") for s in ("pth", "pyd", "txt")], ("a.jpg", b"j")]
    assert set(parse_sample(fragment(members), "x.tar").members) == {"txt", "jpg"}


def test_a_range_over_two_samples_is_corrupt():
    with pytest.raises(CorruptError, match="cuts through"):
        parse_sample(fragment([("a.txt", b""), ("b.txt", b"")]), "x.tar")


def test_a_range_without_a_sample_is_corrupt():
    with pytest.raises(CorruptError, match="no sample"):
        parse_sample(fragment([("README", b"hello")]), "x.tar")


def raw(**members):
    return RawSample(
        "k", {name: value.encode() if isinstance(value, str) else value for name, value in members.items()}
    )


@pytest.mark.parametrize(
    ("members", "captions"),
    [
        ({"txt": " a dog \n"}, ("a dog",)),
        ({"txt": b"\xef\xbb\xbfdog"}, ("dog",)),
        ({"txt": b"caf\xe9"}, ("caf\ufffd",)),
        ({"txt": "x" * (MAX_CAPTION + 5)}, ("x" * MAX_CAPTION,)),
        ({"json": '{"caption": "one"}'}, ("one",)),
        ({"json": '{"captions": ["a", " ", 3, "b"]}', "txt": "t"}, ("a", "b")),
        ({"json": '{"width": 3}', "txt": "t"}, ("t",)),
        ({"json": "not json", "txt": "t"}, ("t",)),
        ({"json": "[1]", "txt": "t"}, ("t",)),
        ({"json": "[" * 100_000, "txt": "t"}, ("t",)),
    ],
)
def test_captions(members, captions):
    assert raw(**members).captions() == captions


@pytest.mark.parametrize("members", [{}, {"txt": ""}, {"txt": " \n"}, {"json": json.dumps({"captions": []})}])
def test_no_caption(members):
    with pytest.raises(UnusableSample) as caught:
        raw(**members).captions()
    assert caught.value.reason == "no caption"


def test_no_image():
    with pytest.raises(UnusableSample, match="no image"):
        raw(txt="x").image()


@pytest.mark.parametrize(("text", "number"), [("3", 3), (" 12\n", 12), (None, None)])
def test_class_number(text, number):
    assert raw(**({} if text is None else {"cls": text})).class_number() == number


@pytest.mark.parametrize("text", ["-1", "dog", "", "1.5", "٣"])
def test_class_that_is_no_number(text):
    with pytest.raises(UnusableSample, match="not a number"):
        raw(cls=text).class_number()

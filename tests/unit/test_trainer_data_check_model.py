"""The tally of a check against the simplest thing that could be right: lists of all findings, counted at the end."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.check.sample import Caption, Finding, Picture
from clip_trainer.data.check.tally import Tally
from clip_trainer.data.check.verdict import judge

pictures = st.builds(
    Picture,
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    format=st.sampled_from(["JPEG", "PNG"]),
    mode=st.sampled_from(["RGB", "L"]),
    turned=st.booleans(),
    digest=st.integers(0, 6).map(lambda number: number << 30),
)
captions = st.builds(
    Caption,
    characters=st.integers(1, 400),
    tokens=st.integers(2, 120),
    script=st.sampled_from(["Latin", "Han"]),
    digest=st.integers(0, 6).map(lambda number: number << 30),
)


@st.composite
def findings(draw):
    if draw(st.integers(0, 9)) == 0:
        return Finding(0, 0, "", damage="stored bytes differ")
    picture, texts = draw(st.none() | pictures), tuple(draw(st.lists(captions, max_size=3)))
    return Finding(
        shard=draw(st.integers(0, 3)),
        index=draw(st.integers(0, 99)),
        key=draw(st.sampled_from("abcdefgh")),
        bytes=draw(st.integers(0, 10**6)),
        picture=picture,
        picture_problem=None if picture else draw(st.sampled_from(["no image", "not an image"])),
        captions=texts,
        caption_problem=None if texts else draw(st.sampled_from(["no caption", "empty caption"])),
        has_class=draw(st.booleans()),
    )


def repeats(values):
    """How many of the values had been there before."""
    values = list(values)
    return len(values) - len(set(values))


@given(st.lists(findings(), max_size=40), st.integers(0, 5))
def test_the_report_is_what_counting_at_the_end_gives(found, previews):
    tally = Tally(previews, seed=1)
    for one in found:
        tally.add(one)
    report = tally.report(str)
    whole = [one for one in found if one.damage is None]
    shown, texts = [one.picture for one in whole if one.picture], [text for one in whole for text in one.captions]
    assert (report["read"], report["damaged"]) == (len(found), len(found) - len(whole))
    assert report["bytes"] == sum(one.bytes for one in found)
    assert report["problems"] == Counter(one.problem for one in found if one.problem)
    assert report["unusable"] == sum(one.problem is not None for one in found)
    assert report["with_class"] == sum(one.has_class for one in whole)
    assert report["duplicate_keys"]["repeats"] == repeats(one.key for one in whole)
    images, described = report["images"], report["captions"]
    assert images["formats"] == Counter(picture.format for picture in shown)
    assert images["rotated_by_exif"] == sum(picture.turned for picture in shown)
    assert images["shorter_side"]["maximum"] == max((min(p.width, p.height) for p in shown), default=0)
    assert images["shorter_side"]["total"] == images["aspect"]["total"] == len(shown)
    assert images["duplicates"]["repeats"] == repeats(picture.digest for picture in shown)
    assert described["cut"] == sum(text.tokens > 77 for text in texts)
    assert described["scripts"] == Counter(text.script for text in texts)
    assert described["duplicates"]["repeats"] == repeats(text.digest for text in texts)
    assert described["missing"] == Counter(one.caption_problem for one in whole if one.caption_problem)
    usable = [one for one in found if one.problem is None]
    assert len(tally.previews) == min(previews, len(usable))
    assert all(one in usable for one in tally.previews)


@given(st.integers(1, 500), st.data())
def test_the_verdict_follows_the_counts(read, data):
    unusable = data.draw(st.integers(0, read))
    damaged = data.draw(st.integers(0, unusable))
    max_bad = data.draw(st.floats(0, 1))
    samples = data.draw(st.integers(read, 10**9))
    verdict = judge(read=read, unusable=unusable, damaged=damaged, samples=samples, max_bad=max_bad)
    assert verdict.ok == (damaged == 0 and unusable <= max_bad * read)
    assert verdict.text.startswith("OK" if verdict.ok else ("DAMAGED", "BAD"))
    assert ("whole set" in verdict.text) == (read < samples)

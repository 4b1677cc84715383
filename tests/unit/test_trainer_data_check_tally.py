"""Adding up findings: figures, examples, previews."""

from collections import Counter

import pytest

from clip_trainer.data.check.sample import Caption, Finding, Picture
from clip_trainer.data.check.tally import Tally, shown


def picture(number=0, *, width=100, height=80, kind="JPEG", turned=False):
    return Picture(width, height, kind, "RGB", turned, number << 40)


def caption(number=0, *, characters=20, tokens=6, script="Latin"):
    return Caption(characters, tokens, script, number << 40)


def finding(number, **given):
    usable = {"picture": picture(number), "captions": (caption(number),), "text": f"text {number}", "bytes": 10}
    return Finding(number // 10, number % 10, f"key-{number}", **{**usable, **given})


def report(findings, **given):
    tally = Tally(**given)
    for found in findings:
        tally.add(found)
    return tally.report("shard-{}.tar".format)


def test_good_samples():
    found = report(map(finding, range(8)))
    assert (found["read"], found["unusable"], found["damaged"], found["bytes"]) == (8, 0, 0, 80)
    assert found["problems"] == found["examples"] == {}
    assert found["images"]["count"] == found["captions"]["count"] == found["captions"]["samples"] == 8


def test_problems_are_counted_by_reason_with_a_few_examples():
    bad = [finding(n, picture=None, picture_problem="not an image") for n in range(20, 29)]
    mute = finding(30, captions=(), caption_problem="no caption", text="")
    found = report([*map(finding, range(4)), *bad, mute])
    assert found["problems"] == {"not an image": 9, "no caption": 1}
    assert found["unusable"] == 10
    assert [one["key"] for one in found["examples"]["not an image"]] == [f"key-{n}" for n in range(20, 25)]
    assert found["examples"]["no caption"] == [{"key": "key-30", "shard": "shard-3.tar", "index": 0}]
    assert found["images"]["count"] == 5  # the mute one has a picture
    assert found["captions"]["missing"] == {"no caption": 1}


def test_damage_says_nothing_about_captions_and_keys():
    damaged = [Finding(1, n, "", damage="stored bytes differ") for n in range(3)]
    found = report([finding(0), *damaged])
    assert (found["damaged"], found["unusable"]) == (3, 3)
    assert found["problems"] == {"stored bytes differ": 3}
    assert found["duplicate_keys"]["repeats"] == 0
    assert found["captions"]["missing"] == {}


def test_image_figures():
    shapes = [(640, 480), (480, 640), (300, 300), (100, 1000)]
    found = report(finding(n, picture=picture(n, width=w, height=h, turned=n == 2)) for n, (w, h) in enumerate(shapes))
    images = found["images"]
    assert images["shorter_side"]["minimum"] == 100
    assert images["shorter_side"]["maximum"] == 480
    assert images["rotated_by_exif"] == 1
    aspects = dict(zip(images["aspect"]["starts"], images["aspect"]["counts"], strict=True))
    assert {start: count for start, count in aspects.items() if count} == {0: 1, 0.67: 1, 0.95: 1, 1.25: 1}


def test_captions_that_are_cut():
    lengths = [(76, 100), (77, 101), (78, 102), (200, 900)]
    found = report(finding(n, captions=(caption(n, tokens=t, characters=c),)) for n, (t, c) in enumerate(lengths))
    assert found["captions"]["cut"] == 2
    assert found["captions"]["tokens"]["maximum"] == 200
    assert found["captions"]["characters"]["median"] == 101


def test_several_captions_of_a_sample():
    found = report([finding(0, captions=(caption(1), caption(2, script="Han"), caption(1)))])
    assert (found["captions"]["count"], found["captions"]["samples"]) == (3, 1)
    assert found["captions"]["scripts"] == {"Latin": 2, "Han": 1}
    assert found["captions"]["duplicates"]["repeats"] == 1


def test_repeated_keys_and_images():
    again = Finding(7, 7, "key-1", picture=picture(3), captions=(caption(50),))
    found = report([*map(finding, range(5)), again])
    assert found["duplicate_keys"] == {"repeats": 1, "watched_share": 1.0, "examples": ["key-1"]}
    assert found["images"]["duplicates"]["repeats"] == 1
    assert found["captions"]["duplicates"]["repeats"] == 0


def test_names_from_data_cannot_fill_the_memory():
    found = report(finding(n, json_keys=("caption", f"key {n}"), language=f"l{n}") for n in range(500))
    assert len(found["json_keys"]) <= 65
    assert found["json_keys"]["caption"] == 500
    assert found["json_keys"]["(others)"] == 500 - 63
    assert sum(found["languages"].values()) == 500


def test_previews_are_a_fair_draw_of_the_usable_ones():
    drawn = Counter()
    for seed in range(300):
        tally = Tally(previews=5, seed=seed)
        for n in range(20):
            tally.add(finding(n) if n % 4 else finding(n, picture=None, picture_problem="no image"))
        assert len({found.key for found in tally.previews}) == 5
        drawn.update(found.key for found in tally.previews)
        drawn["first"] += tally.previews[0].key == "key-1"
    assert drawn.pop("first") < 60  # 300 / 15 if the order is a draw too
    assert len(drawn) == 15
    assert all(count == pytest.approx(100, abs=45) for count in drawn.values())


def test_the_same_seed_draws_the_same_previews():
    def draw(seed):
        tally = Tally(previews=3, seed=seed)
        for n in range(50):
            tally.add(finding(n))
        return [found.key for found in tally.previews]

    assert draw(1) == draw(1) != draw(2)


def test_text_from_data_is_one_clean_line():
    assert shown(" a\n\tb\u2028 c ") == "a b c"
    assert shown("\ud800x") == "?x"

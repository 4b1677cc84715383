"""Which of several texts is the caption: by weights, by key, and never by chance."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.order.prp import derive_key
from clip_trainer.data.samples.captions import any_caption, weighted_caption
from clip_trainer.data.shards.sample import MAX_CAPTION, RawSample, UnusableSample

DRAWS = 6000


def sample(txt=None, **fields):
    members = {} if txt is None else {"txt": txt.encode() if isinstance(txt, str) else txt}
    return RawSample("key", {**members, **({"json": json.dumps(fields).encode()} if fields else {})})


def shares(weights, one):
    choose = weighted_caption(weights)
    counts = Counter(choose(one, derive_key(number)) for number in range(DRAWS))
    return {text: round(count / DRAWS, 1) for text, count in counts.items()}


def test_texts_come_as_often_as_their_weights_say():
    one = sample("t", caption="c", synthetic="s")
    assert shares({"txt": 1, "json.caption": 2, "json.synthetic": 7}, one) == {"t": 0.1, "c": 0.2, "s": 0.7}


def test_each_element_of_a_list_has_the_weight():
    assert shares({"txt": 6, "json.all": 2}, sample("t", all=["a", "b"])) == {"t": 0.6, "a": 0.2, "b": 0.2}


def test_missing_texts_leave_their_share_to_the_others():
    assert shares({"txt": 1, "json.caption": 3, "json.more": 1}, sample("t", more="m")) == {"t": 0.5, "m": 0.5}
    for nothing in (None, "", "  ", 7, [], {"a": 1}, [3, None]):
        assert shares({"txt": 1, "json.caption": 3}, sample("t", caption=nothing)) == {"t": 1.0}


def test_a_sample_without_any_of_them():
    choose = weighted_caption({"json.caption": 1})
    for one in (
        sample("t"),
        sample(other="o"),
        RawSample("key", {"json": b"{broken"}),
        RawSample("key", {"json": b"[]"}),
    ):
        with pytest.raises(UnusableSample, match="no caption"):
            choose(one, 1)


@given(key=st.integers(0, 2**64 - 1), weights=st.permutations([("txt", 1.0), ("json.a", 0.5), ("json.b", 3.0)]))
def test_the_order_in_run_yaml_does_not_matter(key, weights):
    one = sample("t", a="a", b=["b", "B"])
    chosen = weighted_caption(dict(weights))(one, key)
    assert chosen == weighted_caption({"json.a": 0.5, "json.b": 3.0, "txt": 1.0})(one, key)


def test_the_choice_is_frozen():
    one = sample("t", a="a", b=["b", "B"])
    choose = weighted_caption({"txt": 1.0, "json.a": 1.0, "json.b": 1.0})
    assert [choose(one, derive_key(number)) for number in range(12)] == list("BbbBBtBBbtaB")


def test_texts_are_cleaned_as_captions_always_are():
    choose = weighted_caption({"txt": 1})
    assert choose(sample("\ufeff two words \n"), 0) == "two words"
    assert choose(sample(b"cut \xe4"), 0) == "cut \ufffd"
    assert choose(sample("x" * (MAX_CAPTION + 5)), 0) == "x" * MAX_CAPTION


def test_keys_at_both_ends():
    one = sample("t", a="a")
    choose = weighted_caption({"txt": 1.0, "json.a": 1.0})
    assert choose(one, 0) == "a"
    assert choose(one, 2**64 - 1) == "t"


def test_without_weights_every_caption_is_as_probable():
    one = sample("t", captions=["a", "b"])
    assert [any_caption(one, key) for key in range(4)] == ["a", "b", "a", "b"]

"""Which samples are listed: exactly those that a second, straightforward reading of the rules would list."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_testkit.shards import tar_bytes
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.index.rows import unpack_details, unpack_rows
from clip_trainer.data.index.rules import SampleRules, parse_where
from clip_trainer.data.index.scan import scan_shard
from clip_trainer.data.index.update import IndexOptions, index_dataset
from clip_trainer.data.order.lanes import SampleOrder
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.shards.sample import RawSample, parse_sample
from clip_trainer.data.storage.source import ObjectInfo, SourceCounters
from clipctl.contract.errors import MissingError, SpecError

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


def picture(suffix, width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (width % 256, height % 256, 0)).save(buffer, FORMATS[suffix])
    return buffer.getvalue()


sides = st.integers(1, 40)
images = st.tuples(st.sampled_from(sorted(FORMATS)), sides, sides).map(lambda image: (image[0], picture(*image)))
broken = st.sampled_from([("jpg", b""), ("png", b"not an image"), ("jpg", b"\xff\xd8\xff"), ("webp", b"RIFF0000WEBP")])
texts = st.text("ab \n", max_size=12)
about = st.dictionaries(
    st.sampled_from(["language", "caption", "captions", "n"]),
    st.one_of(texts, st.integers(0, 3), st.booleans(), st.none(), st.lists(texts, max_size=3)),
)
members = st.fixed_dictionaries(
    {},
    optional={
        "image": st.one_of(images, broken),
        "txt": texts.map(str.encode),
        "json": st.one_of(about.map(lambda content: json.dumps(content).encode()), st.just(b"{")),
        "cls": st.just(b"3"),
        "pkl": st.just(b"never read"),
    },
)
limits = st.one_of(st.none(), st.integers(1, 30))
rules = st.builds(
    SampleRules,
    needs=st.lists(st.sampled_from(["image", "caption", "class"]), max_size=2, unique=True).map(tuple),
    min_side=limits,
    max_aspect=st.one_of(st.none(), st.floats(1, 5)),
    min_caption=st.one_of(st.none(), st.integers(1, 4)),
    max_caption=st.one_of(st.none(), st.integers(4, 9)),
    where=st.lists(
        st.tuples(st.sampled_from(["language", "n"]), st.sampled_from(["a", "1", "true", "null", ""])), max_size=2
    ).map(tuple),
)


def suits(sample, rule):
    """The rules once more, from decoded images and by nobody's code but this."""
    image = sample.get("image")
    if ("image" in rule.needs and image is None) or ("class" in rule.needs and "cls" not in sample):
        return False
    content = {}
    if "json" in sample:
        content = json.loads(sample["json"]) if sample["json"] != b"{" else None
    captions = (content or {}).get("captions", (content or {}).get("caption"))
    captions = captions if isinstance(captions, list) else [captions]
    captions = [text for text in captions if isinstance(text, str)] or [sample.get("txt", b"").decode()]
    lengths = [len(text.strip()) for text in captions if text.strip()]
    if ("caption" in rule.needs or rule.min_caption or rule.max_caption) and not lengths:
        return False
    if rule.min_caption and any(length < rule.min_caption for length in lengths):
        return False
    if rule.max_caption and any(length > rule.max_caption for length in lengths):
        return False
    if rule.min_side or rule.max_aspect:
        try:
            width, height = Image.open(io.BytesIO(image[1])).size
        except (TypeError, OSError):
            return False
        if rule.min_side and min(width, height) < rule.min_side:
            return False
        if rule.max_aspect and max(width, height) / min(width, height) > rule.max_aspect:
            return False
    words = {True: "true", False: "false", None: "null"}
    for key, wanted in rule.where:
        if content is None or "json" not in sample or key not in content:
            return False
        value = content[key]
        text = (
            words[value] if isinstance(value, bool | None) else value if isinstance(value, str) else json.dumps(value)
        )
        if text != wanted:
            return False
    return True


class Memory:
    base, remote = "memory", False

    def __init__(self, content):
        self.content, self.counters = content, SourceCounters()

    def read(self, name, offset, length, *, etag=None):
        return self.content[offset : offset + length]


@given(samples=st.lists(members, min_size=1, max_size=8), rule=rules)
@settings(max_examples=150, deadline=None)
def test_the_samples_listed_are_those_that_suit(samples, rule):
    tar, kept = [("shown.png", picture("png", 9, 9))], []
    for number, sample in enumerate(samples):
        for suffix, data in sample.items():
            tar.append((f"{number}.{data[0]}", data[1]) if suffix == "image" else (f"{number}.{suffix}", data))
        if sample and suits(sample, rule):
            kept.append(str(number))
    content = tar_bytes(tar)
    entry, block = scan_shard(Memory(content), ObjectInfo("s.tar", len(content), None), rule)
    rows = unpack_rows(block, entry.samples)
    cut = [content[slice(at, at + length)] for at, length in map(rows.range, range(entry.samples))]
    assert [key for key in (parse_sample(data, "s").key for data in cut) if key != "shown"] == kept
    there = 1 + sum(1 for sample in samples if sample)
    assert entry.samples + sum(unpack_details(block, entry.samples).left_out.values()) == there


@pytest.mark.parametrize(
    ("rule", "suffixes", "read", "reason"),
    [
        (SampleRules(), set(), {}, None),
        (SampleRules(needs=("image",)), {"txt"}, {}, "no image"),
        (SampleRules(needs=("class",)), {"txt"}, {}, "no class"),
        (SampleRules(needs=("caption",)), {"txt"}, {"txt": b" "}, "no caption"),
        (SampleRules(min_side=3), {"txt"}, {}, "no image"),
        (SampleRules(min_side=3), {"png"}, {"png": b"x"}, "image size unknown"),
        (SampleRules(min_side=3), {"png"}, {"png": picture("png", 2, 9)}, "image too small"),
        (SampleRules(min_side=2), {"png"}, {"png": picture("png", 2, 9)}, None),
        (SampleRules(max_aspect=4), {"png"}, {"png": picture("png", 2, 9)}, "image too elongated"),
        (SampleRules(max_aspect=4.5), {"png"}, {"png": picture("png", 9, 2)}, None),
        (SampleRules(min_caption=3), {"txt"}, {"txt": b"ab"}, "caption too short"),
        (SampleRules(max_caption=3), {"txt"}, {"txt": b"abcd"}, "caption too long"),
        (SampleRules(max_caption=3), {"txt"}, {"txt": "äöü".encode()}, None),
        (SampleRules(max_caption=3), {"json"}, {"json": b'{"captions": ["ab", "abcd"]}'}, "caption too long"),
        (SampleRules(min_caption=3), {"json"}, {"json": b'{"captions": ["abcd", "ab"]}'}, "caption too short"),
        (SampleRules(min_caption=2, max_caption=4), {"json"}, {"json": b'{"captions": ["abcd", "ab"]}'}, None),
        (SampleRules(where=(("l", "en"),)), {"txt"}, {}, "no json"),
        (SampleRules(where=(("l", "en"),)), {"json"}, {"json": b'{"l": "de"}'}, "other l"),
        (SampleRules(where=(("l", "en"),)), {"json"}, {"json": b'["l"]'}, "other l"),
        (SampleRules(where=(("n", "0.5"),)), {"json"}, {"json": b'{"n": 0.5}'}, None),
        (SampleRules(where=(("n", "true"),)), {"json"}, {"json": b'{"n": true}'}, None),
    ],
)
def test_the_reason_is_told(rule, suffixes, read, reason):
    assert rule.objection(suffixes, RawSample("k", read)) == reason


@pytest.mark.parametrize(
    ("rule", "reads"),
    [
        (SampleRules(), set()),
        (SampleRules(needs=("image", "class")), set()),
        (SampleRules(needs=("caption",)), {"txt", "json"}),
        (SampleRules(max_aspect=2), {"jpg", "jpeg", "png", "webp"}),
        (SampleRules(where=(("a", "b"),)), {"json"}),
    ],
)
def test_only_what_a_rule_needs_is_read(rule, reads):
    assert rule.reads == reads


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_side": 0},
        {"max_aspect": 0.5},
        {"max_aspect": float("nan")},
        {"min_caption": -1},
        {"min_caption": 9, "max_caption": 8},
        {"needs": ("picture",)},
        {"duplicates": "drop"},
    ],
)
def test_rules_that_nothing_can_satisfy_are_refused(wrong):
    with pytest.raises(SpecError):
        SampleRules(**wrong)


@given(rule=rules)
def test_rules_survive_their_json(rule):
    assert SampleRules.from_json(json.loads(json.dumps(rule.to_json()))) == rule
    assert SampleRules().to_json() == {}


def test_conditions_are_parsed():
    assert parse_where(["language=en", "a=b=c", "x="]) == (("language", "en"), ("a", "b=c"), ("x", ""))
    for wrong in ("language", "=en", ""):
        with pytest.raises(SpecError, match="KEY=VALUE"):
            parse_where([wrong])


@pytest.fixture
def mixed(tmp_path):
    """Two shards of three pictures, of sides 8, 16 and 24."""
    for shard in range(2):
        names = [(f"{shard}{n}", picture("png", 8 * n, 8 * n)) for n in (1, 2, 3)]
        content = [m for key, image in names for m in ((f"{key}.png", image), (f"{key}.txt", key.encode()))]
        (tmp_path / f"{shard}.tar").write_bytes(tar_bytes(content))
    return str(tmp_path)


def test_rules_are_kept_in_the_index_and_make_another_data_set(mixed):
    whole = open_dataset(mixed)
    made = index_dataset(mixed, IndexOptions(SampleRules(min_side=16)), name="large")
    large = open_dataset(mixed, name="large")
    assert large.index == made.index
    assert large.index.header.rules == SampleRules(min_side=16)
    assert large.index.header.left_out == {"image too small": 2}
    assert (whole.counts, large.counts) == ((3, 3), (2, 2))
    assert whole.identity != large.identity
    assert open_dataset(mixed).index == whole.index


def test_rules_that_leave_nothing_are_an_error(mixed):
    with pytest.raises(MissingError, match=r"leave no sample of .* \(6 image too small\)"):
        index_dataset(mixed, IndexOptions(SampleRules(min_side=99)), name="none")
    with pytest.raises(MissingError):
        open_dataset(mixed, name="none")


def test_a_shard_without_samples_left_is_in_nobodys_way(mixed, tmp_path):
    (tmp_path / "00.tar").write_bytes(tar_bytes([("s.png", picture("png", 3, 3)), ("s.txt", b"small")]))
    index_dataset(mixed, IndexOptions(SampleRules(min_side=8)), name="n")
    dataset = open_dataset(mixed, name="n")
    assert dataset.counts == (3, 0, 3)
    dataset.require("image", "caption")
    order = SampleOrder(dataset.counts, seed=1, lanes=2, shuffle_block=2)
    reader = dataset.open_reader(ReadHints())
    seen = [reader.read(ref.shard, ref.index_in_shard).key for ref in order.batch(0, 6)]
    assert sorted(seen) == ["01", "02", "03", "11", "12", "13"]

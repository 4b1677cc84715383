"""The `data` section: sources, weights, tables, drawing; and what of it makes another run."""

import pytest
from pydantic import ValidationError

from clip_testkit.runyaml import MINIMAL, spec_with
from clipctl.contract.sections import DataSection, quantity_bytes
from clipctl.contract.spec import RunSpec
from clipctl.specfile import parse_spec
from clipctl.yamlsafe import DocumentError

TWO = "data.train=[{url: s3://b/a, weight: 2}, {url: /b, index: big}]"
DRAWN = (TWO, "data.resample={}")


def data(*overrides):
    return spec_with(*overrides).data


def problem(*overrides):
    with pytest.raises(DocumentError) as caught:
        spec_with(*overrides)
    return str(caught.value)


@pytest.mark.parametrize("train", ["/data", "s3://b/p-{000..100}.tar", "d.tar", "pairs.csv", "synthetic:100"])
def test_one_location(train):
    (source,) = data(f"data.train={train}").sources
    assert (source.url, source.weight, source.index) == (train, 1.0, None)


def test_openclips_way_to_write_several():
    assert [source.url for source in data("data.train='a/{0..3}.tar::s3://b/c'").sources] == [
        "a/{0..3}.tar",
        "s3://b/c",
    ]


def test_a_list_of_sources():
    first, second = data(*DRAWN, "data.index=small").sources
    assert (first.url, first.weight, first.index) == ("s3://b/a", 2.0, "small")
    assert (second.url, second.weight, second.index) == ("/b", 1.0, "big")


def test_the_resolved_spec_is_a_valid_spec():
    spec = spec_with(*DRAWN, "data.captions={txt: 1, json.caption: 2}", "data.cache={path: /c}")
    assert RunSpec.model_validate(spec.resolved()) == spec


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((TWO,), "weights of train need sampling with replacement: add data.resample"),
        (("data.train='a::'",), "train has an empty source: 'a::'"),
        (("data.train=[]",), "data.train: should have at least 1 items"),
        (("data.train=''",), "data.train: should have at least 1 characters"),
        (("data.train={url: a}",), "data.train: should be text or a list, not a mapping"),
        (("data.train=7",), "data.train: should be text or a list, not 7"),
        (("data.train=[{weight: 1}]",), "data.train[0].url: is required"),
        (("data.train=[{url: a, wieght: 1}]",), "data.train[0].wieght: is not a field; did you mean `weight`?"),
        (("data.train=[{url: a, weight: 0}]",), "data.train[0].weight: should be greater than 0"),
        (("data.train=synthetic:many",), "should say how many samples, as synthetic:10000"),
        (("data.train='pipe:cat x.tar'",), "set data.allow_pipe to true"),
        (("data.train=a.csv", "data.index=big"), "index is for shards: a.csv has none"),
        (("data.columns={image: i}",), "columns are for tables"),
        (("data.train=a.csv", "data.columns={separator: ab}"), "data.columns.separator: should have at most 1"),
        (("data.resample={}", "data.epoch_samples=7"), "remove it"),
        (("data.resample={weight_by: row}",), "should be sample, shard or source"),
        (("data.captions={}",), "data.captions: "),
        (("data.captions={json: 1}",), "data.captions.json: is neither `txt` nor `json.` and the name of a field"),
        (("data.captions={txt: 0}",), "data.captions.txt: should be greater than 0"),
        (("data.index=Big",), "data.index: may hold only"),
        (("data.memory=2 GB",), "data.memory: is not a Kubernetes quantity"),
        (("data.stall_seconds=0",), "data.stall_seconds: should be greater than 0"),
    ],
)
def test_what_is_refused_and_where(overrides, words):
    assert words in problem(*overrides)


def test_rules_between_fields_point_at_their_line():
    text = MINIMAL.replace("  train: s3://bucket/train\n", "  train:\n  - {url: a, weight: 2.0}\n")
    with pytest.raises(DocumentError, match=r"run\.yaml:6:3 data\.train: weights of train"):
        parse_spec(text.encode(), "run.yaml")


def test_long_and_broken_locations():
    for train in ("x" * 2049, "a\nb"):
        with pytest.raises(ValidationError):
            DataSection.model_validate({"train": train})


def test_pipes_where_they_are_allowed():
    assert data("data.train='pipe:cat {0..9}.tar'", "data.allow_pipe=true").sources[0].url.startswith("pipe:")


def test_locations_of_the_data():
    def named(*overrides):
        return {name: url for name, url in spec_with(*overrides).locations().items() if name.startswith("data")}

    assert named() == {"data.train": "s3://bucket/train"}
    assert named(*DRAWN) == {"data.train.0": "s3://b/a", "data.train.1": "/b"}
    assert named("data.train=synthetic:5") == {}
    assert named("data.train='pipe:cat a.tar'", "data.allow_pipe=true") == {}
    table = named("data.train=/t/pairs.tsv", "data.columns={root: /images}")
    assert table == {"data.train": "/t/pairs.tsv", "data.columns.root": "/images"}


def test_credentials_in_any_source_are_refused():
    assert "carries credentials" in problem("data.train='/a::s3://key:secret@b/c'")


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        (("data.resample={}",), False),
        (("data.captions={txt: 1}",), False),
        (("data.epoch_samples=7",), True),
        (("data.cache={path: /c}",), True),
        (("data.memory=1Gi",), True),
        (("data.allow_pipe=true",), True),
        (("data.stall_seconds=1",), True),
        (("data.train=/a/copy",), True),
    ],
)
def test_what_makes_another_run(overrides, same):
    assert (spec_with(*overrides).training_digest("d") == spec_with().training_digest("d")) is same


def test_weights_and_ways_to_draw_make_another_run():
    kinds = [
        DRAWN,
        (TWO.replace("2}", "3}"), DRAWN[1]),
        (TWO, "data.resample={weight_by: source}"),
        (TWO, "data.resample={samples_per_epoch: 9}"),
    ]
    assert len({spec_with(*kind).training_digest("d") for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("text", "number"),
    [("4", 4), ("1.5Gi", 3 << 29), ("100k", 100_000), ("500m", 0), ("2T", 2 * 10**12), ("1Ki", 1024)],
)
def test_quantities_as_numbers(text, number):
    assert quantity_bytes(text) == number

"""Stages over samples in memory: what each of them gets to work on. Nothing here looks at how long anything takes."""

import numpy as np
import pytest
import torch

from clip_testkit.madeup import MadeUpSamples
from clip_testkit.shards import png
from clip_trainer.data.bench.bench import Workload, bench
from clip_trainer.data.bench.command import lanes_for
from clip_trainer.data.order.lanes import SampleOrder
from clip_trainer.data.shards.sample import RawSample
from clip_trainer.vision import OPENAI_PREPROCESS, Transforms
from clipctl.contract.errors import CorruptError, UnavailableError
from clipctl.contract.sections import AugmentSection

SIZE = 24


def make(shard, index):
    number = shard * 100 + index
    if index % 10 == 9:
        return RawSample(f"bad-{number}", {"png": b"<html>", "txt": b"x"})
    return RawSample(f"{number}", {"png": png(number, SIZE), "txt": b"two words"})


def workload(samples, **given):
    return Workload(
        **{
            "samples": samples,
            "order": SampleOrder(samples.counts, seed=1, lanes=1, shuffle_block=16),
            "transforms": Transforms((16, 16), OPENAI_PREPROCESS, AugmentSection()),
            "tokenize": lambda texts: np.ones((len(texts), 5), np.int64),
            "batch": 8,
            "threads": 2,
            "max_pixels": 10**6,
            "seconds": 0.05,
            **given,
        }
    )


@pytest.fixture
def measured():
    told = []
    samples = MadeUpSamples([40, 60], make)
    result = bench(workload(samples, told=told.append))
    return result, told, samples


def test_every_stage_is_measured_in_order(measured):
    result, told, _ = measured
    assert list(result.stages) == ["read", "decode", "transform", "tokenise"]
    assert told == ["read", "parse", "decode", "transform", "tokenise", "all together"]
    assert result.parse is None  # samples made up in memory are in no shard
    for timing in (*result.stages.values(), result.end_to_end):
        assert timing.samples > 0
        assert timing.seconds > 0
        assert timing.cpu_seconds > 0


def test_bytes_are_those_that_were_read(measured):
    result, _, _ = measured
    read = result.stages["read"]
    assert 0 < read.bytes < read.samples * 300
    assert result.end_to_end.bytes > 0
    assert result.stages["decode"].bytes == 0


def test_unusable_samples_are_left_out_and_counted(measured):
    result, _, _ = measured
    assert 0 < result.unusable < result.held
    assert result.unusable == pytest.approx(result.held / 10, abs=3)
    assert result.image_side == pytest.approx(SIZE)


def test_a_slow_store_still_gives_enough_samples_for_the_other_stages():
    result = bench(workload(MadeUpSamples([40, 60], make), seconds=0.0))
    assert result.held >= 64
    assert result.unusable > 0
    assert result.stages["read"].samples < 64


def test_the_reader_is_asked_for_what_training_would_ask(measured):
    _, _, samples = measured
    alone, in_loader = samples.hints
    assert alone == in_loader


def test_what_was_fetched_ahead_counts_as_read():
    """A reader of remote shards fetches blocks: in a short time many bytes, but few samples are handed out."""

    class Ahead(MadeUpSamples):
        def open_reader(self, hints):
            reader = super().open_reader(hints)
            plain = reader.snapshot
            reader.snapshot = lambda: {**plain(), "bytes_read": 1000 * plain()["bytes_read"]}
            return reader

    handed_out = []
    samples = Ahead([100], lambda shard, index: handed_out.append(index) or make(shard, index % 9))
    told = []

    def note(stage):
        told.append((stage, len(handed_out)))

    read = bench(workload(samples, told=note)).stages["read"]
    assert read.samples > dict(told)["parse"]


def test_the_whole_loader_ends_after_so_many_batches():
    samples = MadeUpSamples([100], make)
    result = bench(workload(samples, batches=1))
    assert result.end_to_end.samples == 8
    assert result.first_batch_seconds > 0


def test_each_stage_works_on_what_the_one_before_it_makes():
    seen = {}

    def tokenize(texts):
        seen["texts"] = set(texts)
        return np.ones((len(texts), 5), np.int64)

    class Recording(Transforms):
        def train(self, image, key):
            seen.setdefault("keys", set()).add(key)
            seen["pixels"] = image.shape
            return torch.zeros(3, 16, 16, dtype=torch.uint8)

    transforms = Recording((16, 16), OPENAI_PREPROCESS, AugmentSection())
    bench(workload(MadeUpSamples([100], make), tokenize=tokenize, transforms=transforms))
    assert seen["texts"] == {"two words"}
    assert seen["pixels"] == (SIZE, SIZE, 3)
    assert len(seen["keys"]) > 1  # every turn has its own draw


def test_a_data_set_without_a_single_usable_sample():
    with pytest.raises(CorruptError, match="none of the") as caught:
        bench(workload(MadeUpSamples([20], lambda shard, index: RawSample("x", {"txt": b"x"}))))
    assert "clipctl data check made-up" in caught.value.hint


def test_a_store_that_does_not_answer():
    def silent(shard, index):
        raise UnavailableError("the store does not answer")

    with pytest.raises(UnavailableError):
        bench(workload(MadeUpSamples([20], silent)))


@pytest.mark.parametrize(
    ("batch", "samples", "lanes"),
    [(256, 10**6, 64), (256, 51, 1), (256, 64 * 10, 8), (96, 64 * 100, 48), (7, 10**6, 7)],
)
def test_lanes_as_in_a_run_but_fewer_for_a_small_data_set(batch, samples, lanes):
    assert lanes_for(batch, samples) == lanes

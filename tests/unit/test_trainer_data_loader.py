"""Batches: the right samples in the right order whatever the world, threads or damage; and nothing left behind."""

import io
import itertools
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from clip_testkit.shards import number_of, png, sample_members, tar_bytes, write_dataset
from clip_trainer.data.index import open_dataset
from clip_trainer.data.lanes import SampleOrder
from clip_trainer.data.loader import BatchLoader
from clipctl.contract.errors import CorruptError, InternalError, SpecError

CONTEXT = 12


class Undecodable(ValueError):
    reason = "broken on purpose"


def decode(data):
    if data == b"broken":
        raise Undecodable
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def transform(image, key):
    """Keeps the picture's number in channels 0 and 1, and shows the key in channel 2."""
    picture = torch.from_numpy(image[:4, :4].copy()).permute(2, 0, 1)
    picture[2] = key % 251
    return picture


def tokenize(texts):
    """Token 1, then the number in the caption plus one, then 2."""
    tokens = np.zeros((len(texts), CONTEXT), np.int64)
    for row, text in enumerate(texts):
        words = [1, *(int(word) + 10 for word in text.split() if word.isdigit()), 2]
        tokens[row, : len(words)] = words
    return tokens


def loader(path, *, lanes=8, batch=16, seed=3, order=None, **options):
    dataset = open_dataset(str(path))
    order = order or SampleOrder(dataset.index.counts, seed=seed, lanes=lanes, shuffle_block=4)
    options = {"transform": transform, "decode": decode, "tokenize": tokenize, "image_size": (4, 4), **options}
    return BatchLoader(dataset, order, global_batch=batch, **options)


@pytest.fixture
def path(tmp_path):
    assert write_dataset(tmp_path, [30, 41, 29]) == 100
    return tmp_path


def pictures(batch):
    return [number_of(image) for image in batch.images.permute(0, 2, 3, 1).numpy()]


def test_batches_show_the_order(path):
    with loader(path, stop_position=160) as batches:
        order = SampleOrder((30, 41, 29), seed=3, lanes=8, shuffle_block=4)
        for step, batch in enumerate(batches):
            expected = [ref.sample_id for ref in order.batch(step * 16, 16)]
            assert batch.sample_ids.tolist() == expected
            assert batch.sample_ids.dtype == np.uint64
            assert pictures(batch) == expected, "images belong to their ids"
            assert batch.tokens[:, 1].tolist() == [number + 10 for number in expected], "captions too"
            assert (batch.images.dtype, tuple(batch.images.shape)) == (torch.uint8, (16, 3, 4, 4))
            assert (batch.tokens.dtype, tuple(batch.tokens.shape)) == (torch.int64, (16, CONTEXT))
            assert (batch.position_start, batch.position_end) == (step * 16, step * 16 + 16)
            assert (batch.text_max_len, batch.counts, batch.replaced) == (3, (16,), ())
        assert step == 9
        assert batches.position == 160


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
def test_batches_are_the_same_in_every_world(path, world):
    with loader(path) as alone:
        whole = [next(alone) for _ in range(8)]
    ranks = [loader(path, rank=rank, world=world, threads=1) for rank in range(world)]
    for one in whole:
        parts = [next(rank) for rank in ranks]
        assert tuple(len(part.sample_ids) for part in parts) == parts[0].counts
        together = {
            sample_id: (image.tolist(), tokens.tolist())
            for part in parts
            for sample_id, image, tokens in zip(part.sample_ids.tolist(), part.images, part.tokens, strict=True)
        }
        expected = zip(one.sample_ids.tolist(), one.images, one.tokens, strict=True)
        # An epoch border inside the batch may show a sample twice, with another key each time.
        if len(together) == 16:
            assert together == {i: (image.tolist(), tokens.tolist()) for i, image, tokens in expected}
        assert Counter(i for part in parts for i in part.sample_ids.tolist()) == Counter(one.sample_ids.tolist())
    for rank in ranks:
        rank.close()


def test_resuming_continues_exactly(path):
    with loader(path) as undisturbed:
        expected = [next(undisturbed) for _ in range(12)]
    with loader(path, start_position=expected[4].position_end, threads=3, prefetch_batches=5) as resumed:
        for batch in expected[5:]:
            again = next(resumed)
            assert torch.equal(again.images, batch.images)
            assert torch.equal(again.tokens, batch.tokens)
            assert again.position_end == batch.position_end


def test_augmentation_differs_between_epochs_and_samples(path):
    with loader(path, lanes=1, batch=100) as batches:
        keys = [
            dict(zip(b.sample_ids.tolist(), b.images[:, 2, 0, 0].tolist(), strict=True))
            for b in (next(batches), next(batches))
        ]
    assert sum(keys[0][i] != keys[1][i] for i in range(100)) > 90
    assert len(set(keys[0].values())) > 50


def test_captions_are_chosen_by_key(tmp_path):
    members = [m for i in range(40) for m in sample_members(i, captions=[f"{i} 1", f"{i} 2", f"{i} 3"])]
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    with loader(tmp_path, lanes=1, batch=40) as batches:
        chosen = [
            dict(zip(b.sample_ids.tolist(), b.tokens[:, 2].tolist(), strict=True))
            for b in (next(batches), next(batches))
        ]
    assert Counter(chosen[0].values()).keys() == {11, 12, 13}
    assert chosen[0] != chosen[1]


def damaged_dataset(directory, bad):
    """60 samples of which some are bad in all the ways a sample can be."""
    members = []
    for number in range(60):
        sample = sample_members(number)
        kind = bad.get(number)
        if kind == "image":
            sample[0] = (sample[0][0], b"broken")
        elif kind == "no image":
            del sample[0]
        elif kind == "no caption":
            sample[1] = (sample[1][0], b" ")
        members += sample
    (directory / "s.tar").write_bytes(tar_bytes(members))


BAD = {3: "image", 4: "no image", 17: "no caption", 18: "image", 50: "no image"}


def test_bad_samples_are_replaced_within_their_lane_and_counted(tmp_path):
    damaged_dataset(tmp_path, BAD)
    with loader(tmp_path, lanes=6, batch=12) as batches:
        epoch = [next(batches) for _ in range(5)]
        counters = batches.snapshot()
    assert Counter(i for batch in epoch for i in batch.sample_ids.tolist()) == Counter(range(60))
    replaced = [item for batch in epoch for item in batch.replaced]
    assert {item.sample_id for item in replaced} == set(BAD)
    assert {item.key for item in replaced} == {f"{number:06d}" for number in BAD}
    assert {item.shard for item in replaced} == {"s.tar"}
    assert counters["replaced"] == Counter(item.reason for item in replaced)
    assert set(counters["replaced"]) == {"broken on purpose", "no image", "no caption"}
    assert not {item.used_id for item in replaced} & set(BAD)
    order = SampleOrder([60], seed=3, lanes=6, shuffle_block=4)
    lane = {ref.sample_id: ref.lane for ref in order.batch(0, 60)}
    assert all(lane[item.used_id] == lane[item.sample_id] for item in replaced)
    shown = [number for batch in epoch for number in pictures(batch)]
    assert not set(shown) & set(BAD)


@pytest.mark.parametrize("world", [2, 4])
def test_replacement_is_the_same_in_every_world(tmp_path, world):
    damaged_dataset(tmp_path, BAD)
    with loader(tmp_path, lanes=6, batch=12) as alone:
        whole = Counter(number for _ in range(10) for number in pictures(next(alone)))
    parts = Counter()
    for rank in range(world):
        with loader(tmp_path, lanes=6, batch=12, rank=rank, world=world) as part:
            parts += Counter(number for _ in range(10) for number in pictures(next(part)))
    assert parts == whole


def test_a_dataset_without_usable_samples_is_an_error_not_a_loop(tmp_path):
    damaged_dataset(tmp_path, dict.fromkeys(range(60), "image"))
    with loader(tmp_path) as batches, pytest.raises(CorruptError, match=r"cannot be used.*broken on purpose"):
        next(batches)
    assert no_data_threads()


def no_data_threads():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("clip-data")]


def test_worker_errors_come_out_typed_and_threads_end(path):
    shard = path / "shard-000001.tar"
    open_dataset(str(path))
    content = bytearray(shard.read_bytes())
    for offset in range(0, len(content), 512):
        content[offset] ^= 0x55
    shard.write_bytes(content)
    batches = loader(path)
    with pytest.raises(CorruptError, match=r"shard-000001\.tar"):
        list(itertools.islice(batches, 20))
    assert no_data_threads()
    with pytest.raises(StopIteration):
        next(batches)


def test_bugs_come_out_as_internal_errors_with_their_cause(path):
    def buggy(image, key):
        raise ZeroDivisionError("oops")

    with (
        loader(path, transform=buggy) as batches,
        pytest.raises(InternalError, match="ZeroDivisionError: oops") as caught,
    ):
        next(batches)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_closing_early_leaves_no_threads(path):
    batches = loader(path, threads=4, prefetch_batches=8)
    next(batches)
    batches.close()
    batches.close()
    assert no_data_threads()
    with pytest.raises(StopIteration):
        next(batches)


def test_work_in_the_making_is_bounded(path):
    started = []

    def counting(data):
        started.append(1)
        return decode(data)

    with loader(path, decode=counting, prefetch_batches=1, threads=1) as batches:
        next(batches)
        batches.close()
        assert len(started) <= 32
    with loader(path, prefetch_batches=50, memory_bytes=1) as batches:
        assert batches._depth == 1


def test_a_rank_may_have_no_samples_in_a_batch(path):
    with loader(path, lanes=16, batch=16, order=SampleOrder((30, 41, 29), seed=1, lanes=16)) as batches:
        assert next(batches).counts == (16,)
    dataset = open_dataset(str(path))
    order = SampleOrder(dataset.index.counts, seed=1, lanes=3)
    with BatchLoader(
        dataset,
        order,
        transform=transform,
        decode=decode,
        tokenize=tokenize,
        image_size=(4, 4),
        global_batch=3,
        rank=2,
        world=3,
    ) as last:
        assert len(next(last).sample_ids) == 1


def test_stop_position_is_never_passed(path):
    with loader(path, start_position=16, stop_position=47) as batches:
        assert [batch.position_end for batch in batches] == [32]


def test_lanes_must_divide_the_batch(path):
    with pytest.raises(SpecError, match="not a multiple"):
        loader(path, lanes=7)


def test_more_workers_than_lanes_are_refused(path):
    with pytest.raises(SpecError, match="cannot share"):
        loader(path, rank=0, world=9)


def test_shards_without_captions_are_refused_before_the_first_step(tmp_path):
    (tmp_path / "s.tar").write_bytes(tar_bytes([("a.png", png(1))]))
    with pytest.raises(CorruptError, match="no caption"):
        loader(tmp_path)


def test_counters_count(path):
    with loader(path, stop_position=32) as batches:
        assert len(list(batches)) == 2
        counted = batches.snapshot()
    assert counted["samples"] == 32
    assert counted["wait_seconds"] > 0
    assert counted["bytes_read"] > 32 * 1024
    assert counted["replaced"] == {}

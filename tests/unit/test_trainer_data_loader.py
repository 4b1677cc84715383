"""Batches: the right samples in the right order whatever the world, threads or damage; and nothing left behind."""

import gc
import io
import itertools
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clip_testkit.clock import FakeClock
from clip_testkit.shards import number_of, png, sample_members, tar_bytes, write_dataset
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.loading import loader as loader_module
from clip_trainer.data.loading import workshop as workshop_module
from clip_trainer.data.loading.loader import BatchLoader
from clip_trainer.data.loading.making import Chunk, Making
from clip_trainer.data.order.lanes import SampleOrder
from clipctl.contract.errors import CorruptError, InternalError, SpecError, UnavailableError

CONTEXT = 12


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Closing waits until its threads get their turn, however busy the machine is."""
    monkeypatch.setattr(workshop_module.Workshop.close, "__defaults__", (120.0,))


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


class Gate:
    """Holds up the threads that come to chosen samples until it is opened."""

    def __init__(self, reader, held):
        self.reader, self.held = reader, held
        self.opened = threading.Event()
        self.came = []

    def read(self, shard, index):
        self.came.append((shard, index))
        if self.held(shard, index):
            assert self.opened.wait(60)
        return self.reader.read(shard, index)

    def snapshot(self):
        return self.reader.snapshot()


def gated(path, held, *, remote=False, **options):
    """A loader whose reads are held up, and the gate."""
    dataset = open_dataset(str(path))
    gate = Gate(dataset.open_reader(SimpleNamespace(cache_bytes=0, open_windows=1, window_samples=1)), held)
    samples = SimpleNamespace(
        remote=remote,
        counts=dataset.counts,
        require=dataset.require,
        shard_name=dataset.shard_name,
        open_reader=lambda hints: gate,
    )
    order = SampleOrder(dataset.counts, seed=3, lanes=8, shuffle_block=4)
    options = {"transform": transform, "decode": decode, "tokenize": tokenize, "image_size": (4, 4), **options}
    return BatchLoader(samples, order, global_batch=16, **options), gate, order


def in_thread(work):
    done = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    return thread, done


def places(order, batch):
    return [(ref.shard, ref.index_in_shard) for ref in order.batch(batch * 16, 16)]


def until(condition):
    """Wait for other threads, without a clock."""
    for _ in range(100_000):
        if condition():
            return
        threading.Event().wait(0.0005)
    raise AssertionError("it did not happen")


def at_work(batches):
    """What threads do for the first batch, whose threads began at one moment: any of them can be to blame."""
    doing = [slot.doing for slot in batches._workshop.slots]
    return [(one.stage, (one.ref.shard, one.ref.index_in_shard)) for one in doing if one and one.turn == 0]


def test_lengths_of_captions_come_with_the_tokens(tmp_path):
    members = [m for i in range(16) for m in sample_members(i, captions=[" ".join(["7"] * (i % 5)) + f" {i}"])]
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    with loader(tmp_path, lanes=4) as batches:
        batch = next(batches)
    assert batch.text_lengths.dtype == torch.int32
    assert batch.text_lengths.tolist() == [3 + number % 5 for number in batch.sample_ids.tolist()]
    assert batch.text_max_len == 7


def test_images_lie_channels_last(path):
    with loader(path) as batches:
        assert next(batches).images.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_is_not_overwritten_while_somebody_looks_at_it(path):
    with loader(path, prefetch_batches=3, threads=3) as batches:
        kept, copies = [], []
        for batch in itertools.islice(batches, 12):
            kept.append(batch.images[3:5])
            copies.append(batch.images[3:5].clone())
            del batch
        assert all(torch.equal(part, copy) for part, copy in zip(kept, copies, strict=True))


def test_memory_of_batches_is_used_again(path):
    with loader(path, prefetch_batches=1) as batches:
        addresses = {next(batches).images.data_ptr() for _ in range(30)}
    assert len(addresses) <= 4


def test_what_a_batch_was_made_of_goes_without_the_garbage_collector(path):
    def making():
        return sum(type(thing) in (Making, Chunk) for thing in gc.get_objects())

    with loader(path, stop_position=16 * 40) as batches:
        gc.collect()
        gc.disable()
        try:
            for batch in batches:
                del batch
        finally:
            gc.enable()
        assert making() <= 2 * (1 + loader_module._READERS + 2), "at most what idle threads had last"


def test_captions_are_chosen_as_asked(path):
    chosen = []

    def last_word(sample, key):
        chosen.append(key)
        return sample.captions()[-1].split()[-1]

    with loader(path, choose_caption=last_word, stop_position=16) as batches:
        batch = next(batches)
    assert batch.tokens[:, 1].tolist() == [number + 10 for number in batch.sample_ids.tolist()]
    assert len(set(chosen)) == 16


def test_memory_is_counted_and_bounded(path):
    with loader(path, prefetch_batches=4, memory_bytes=40_000) as batches:
        for _ in range(20):
            next(batches)
        counted = batches.snapshot()
    assert 0 < counted["memory_bytes"] <= counted["memory_peak_bytes"]
    assert counted["memory_peak_bytes"] < 40_000 + 8 * workshop_module._FIRST_GUESS * 2
    assert counted["stalls"] == 0


def test_what_is_counted_is_given_back(path):
    with loader(path, stop_position=64) as batches:
        for batch in batches:
            del batch
        held = batches._budget.held
        assert held == len(batches._buffers._free) * batches._buffers.batch_bytes


@pytest.mark.parametrize("memory_bytes", [0, 1, 1000])
def test_too_little_memory_is_slow_and_not_stuck(path, memory_bytes):
    with loader(path, memory_bytes=memory_bytes, threads=3, stop_position=160) as batches:
        assert sum(len(batch.sample_ids) for batch in batches) == 160


def test_a_slow_read_does_not_hold_up_the_decoding_of_others(path):
    decoded = []

    def counting(data):
        decoded.append(data)
        return decode(data)

    order = SampleOrder((30, 41, 29), seed=3, lanes=8, shuffle_block=4)
    slow = places(order, 0)[0]
    batches, gate, _ = gated(path, lambda *place: place == slow, threads=1, decode=counting)
    waiting, done = in_thread(lambda: next(batches))
    until(lambda: len(decoded) >= 8 + 32)
    assert not done, "the first batch still waits for its sample"
    gate.opened.set()
    waiting.join(60)
    assert done[0].sample_ids.tolist() == [ref.sample_id for ref in order.batch(0, 16)]
    batches.close()


def test_remote_samples_are_read_farther_ahead_than_they_are_decoded(path):
    decoded = []

    def counting(data):
        decoded.append(data)
        return decode(data)

    batches, gate, order = gated(path, lambda *place: False, remote=True, prefetch_batches=1, decode=counting)
    with batches:
        next(batches)
        until(lambda: len(gate.came) == 16 * 5)
        until(lambda: len(decoded) == 16 * 2)
        assert set(gate.came) == {place for batch in range(5) for place in places(order, batch)}


def test_reads_start_in_the_order_of_the_batches(path, monkeypatch):
    monkeypatch.setattr(loader_module, "_READERS", 1)
    batches, gate, order = gated(path, lambda *place: False, prefetch_batches=3, threads=1)
    with batches:
        for _ in range(5):
            next(batches)
    assert gate.came[:48] == places(order, 0) + places(order, 1) + places(order, 2)


def test_a_stall_is_reported_with_its_cause_and_the_batch_comes_all_the_same(path, monkeypatch):
    monkeypatch.setattr(loader_module, "_LOOK_SECONDS", 0.001)
    clock, reported = FakeClock(), []
    order = SampleOrder((30, 41, 29), seed=3, lanes=8, shuffle_block=4)
    slow = places(order, 0)[5]
    batches, gate, _ = gated(
        path, lambda *place: place == slow, clock=clock, on_stall=reported.append, stall_seconds=10.0
    )
    waiting, done = in_thread(lambda: next(batches))
    until(lambda: slow in gate.came)
    other = batches._pending[0].chunks[1]
    until(lambda: other.finished and at_work(batches) == [("read", slow)])
    clock.advance(12.5)
    until(lambda: reported)
    clock.advance(30)
    gate.opened.set()
    waiting.join(60)
    assert [(stall.stage, stall.shard, stall.sample) for stall in reported] == [
        ("read", f"shard-{slow[0]:06d}.tar", slow[1])
    ]
    assert reported[0].seconds == reported[0].waited == 12.5
    assert done[0].wait_seconds == 42.5
    assert batches.snapshot()["stalls"] == 1
    batches.close()


def test_a_stall_is_logged_by_default(path, monkeypatch, caplog):
    monkeypatch.setattr(loader_module, "_LOOK_SECONDS", 0.001)
    clock, hold = FakeClock(), threading.Event()

    def slow(image, key):
        assert hold.wait(60)
        return transform(image, key)

    with loader(path, transform=slow, clock=clock) as batches:
        waiting, _ = in_thread(lambda: next(batches))
        until(lambda: batches._pending)
        chunks = batches._pending[0].chunks
        until(lambda: all(chunk.encoded_bytes for chunk in chunks) and at_work(batches))
        clock.advance(11)
        until(lambda: caplog.messages)
        hold.set()
        waiting.join(60)
    assert "decoding sample" in caplog.text


def test_a_wait_without_end_is_an_error_and_does_not_hang_the_closing(path, monkeypatch):
    monkeypatch.setattr(loader_module, "_LOOK_SECONDS", 0.001)
    clock = FakeClock()
    batches, gate, _ = gated(path, lambda *place: True, clock=clock, stall_seconds=10**6, timeout=60.0)

    def attempt():
        with batches, pytest.raises(UnavailableError, match=r"reading sample \d+ of shard-"):
            next(batches)
        return "closed"

    waiting, done = in_thread(attempt)
    until(lambda: gate.came)
    clock.advance(61)
    waiting.join(60)
    assert done == ["closed"]
    gate.opened.set()
    until(no_data_threads)


def test_an_error_of_a_later_batch_waits_for_its_turn(path):
    order = SampleOrder((30, 41, 29), seed=3, lanes=8, shuffle_block=4)
    late = set(places(order, 2)) - set(places(order, 0)) - set(places(order, 1))
    batches, gate, _ = gated(path, lambda *place: False)
    read = gate.reader.read

    def failing(shard, index):
        if (shard, index) in late:
            raise UnavailableError("the storage is gone.")
        return read(shard, index)

    gate.reader = SimpleNamespace(read=failing, snapshot=gate.reader.snapshot)
    assert len(next(batches).sample_ids) == 16
    assert len(next(batches).sample_ids) == 16
    with pytest.raises(UnavailableError, match="storage is gone"):
        next(batches)
    assert no_data_threads()

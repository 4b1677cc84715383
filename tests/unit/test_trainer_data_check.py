"""The pass of `clipctl data check` over a set of samples that is made up in memory."""

import threading

import pytest

from clip_testkit.madeup import MadeUpSamples
from clip_testkit.shards import png
from clip_trainer.data.check.check import check, draw, every
from clip_trainer.data.check.sample import Examiner
from clip_trainer.data.shards.sample import RawSample
from clipctl.contract.errors import CorruptError, UnavailableError


def sample(shard, index):
    return RawSample(f"{shard}-{index}", {"png": png(shard * 100 + index), "txt": f"number {index}".encode()})


def run(samples, wanted=None, **given):
    return check(samples, wanted, Examiner(len, 10**6), **given)


class TestDraw:
    def test_it_is_in_stored_order_without_repeats(self):
        places = draw([5, 1, 100, 3], 40, seed=3)
        assert places == sorted(set(places))
        assert len(places) == 40
        assert all(index < (5, 1, 100, 3)[shard] for shard, index in places)

    def test_every_sample_is_equally_likely(self):
        hits = [place for seed in range(2000) for place in draw([2, 0, 6], 4, seed)]
        assert {hits.count(place) for place in set(hits)} <= set(range(900, 1101))
        assert len(set(hits)) == 8

    def test_more_than_there_are_is_all(self):
        assert draw([2, 1], 10, seed=0) == list(every([2, 1])) == [(0, 0), (0, 1), (1, 0)]

    def test_the_seed_decides(self):
        assert draw([10_000], 50, 1) == draw([10_000], 50, 1) != draw([10_000], 50, 2)

    def test_nothing_to_draw_from(self):
        assert draw([], 5, 0) == []


class TestCheck:
    def test_all_samples_in_stored_order(self):
        read = []
        samples = MadeUpSamples([30, 20], lambda shard, index: read.append((shard, index)) or sample(shard, index))
        tally = run(samples, threads=3)
        assert tally.read == 50
        assert sorted(read) == list(every([30, 20]))

    def test_a_draw_reads_nothing_else(self):
        read = []
        samples = MadeUpSamples([300, 200], lambda shard, index: read.append((shard, index)) or sample(shard, index))
        assert run(samples, 40, seed=9).read == 40
        assert sorted(read) == draw([300, 200], 40, 9)

    def test_blocks_are_read_for_all_samples_only(self):
        samples = MadeUpSamples([50], sample)
        run(samples, 10)
        run(samples)
        drawn, whole = samples.hints
        assert drawn.cache_bytes == 0
        assert whole.cache_bytes > 0

    def test_the_result_does_not_depend_on_threads(self):
        reports = [
            run(MadeUpSamples([70, 9], sample), threads=threads, previews=5, seed=2).report(str) for threads in (1, 7)
        ]
        assert reports[0] == reports[1]

    def test_damaged_samples_are_counted_and_do_not_end_it(self):
        def make(shard, index):
            if index % 10 == 4:
                raise CorruptError("sample differs from the index")
            return sample(shard, index)

        tally = run(MadeUpSamples([20, 20], make))
        assert (tally.read, tally.damaged) == (40, 4)
        (found,) = tally.report("shard {}".format)["examples"].values()
        assert found[0] == {"key": "", "shard": "shard 0", "index": 4}

    def test_a_store_that_does_not_answer_ends_it(self):
        def make(shard, index):
            raise UnavailableError("the store does not answer")

        with pytest.raises(UnavailableError):
            run(MadeUpSamples([500], make), threads=2)

    def test_threads_do_not_run_far_ahead(self):
        """Memory is bounded: what is waiting to be added up is a few chunks, not the data set."""
        made = []
        go = threading.Event()

        def progress(event):
            if not go.is_set():
                assert len(made) <= (4 * 2 + 2) * 16
                go.set()

        def make(shard, index):
            made.append(index)
            return sample(0, index % 100)

        run(MadeUpSamples([1000], make), threads=2, progress=progress)
        assert len(made) == 1000

    def test_progress(self):
        events = []
        run(MadeUpSamples([40], sample), 33, progress=events.append)
        assert [event.done for event in events] == [16, 32, 33]
        assert {event.total for event in events} == {33}
        assert events[-1].item == "shard 0"
        assert events[0].bytes_done > 0

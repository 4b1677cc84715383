"""Whom a stall is blamed on."""

import pytest

from clip_testkit.clock import FakeClock
from clip_trainer.data.loading.activity import Slot, Stall, StallWatch
from clip_trainer.data.order.base import SampleRef
from clipctl.contract.errors import UnavailableError


def ref(shard, index):
    return SampleRef(0, 0, 0, 0, shard, index, 0)


class Scene:
    """A consumer that waits for batch 7, and two threads."""

    def __init__(self, threshold=10.0, timeout=None):
        self.clock = FakeClock()
        self.slots = [Slot(self.clock), Slot(self.clock)]
        self.reported = []
        name = "shard-{:06d}.tar".format
        self.watch = StallWatch(self.slots, name, self.reported.append, self.clock, threshold, timeout)
        self.watch.begin()

    def look(self):
        self.watch.look(7, ref(3, 30))


def test_a_short_wait_is_no_stall():
    scene = Scene()
    scene.clock.advance(9.9)
    scene.look()
    assert not scene.reported
    assert scene.watch.stalls == 0


@pytest.mark.parametrize("stage", ["read", "decode", "tokenize"])
def test_what_a_thread_does_for_the_batch_is_named(stage):
    scene = Scene()
    scene.slots[1].begin("decode", 8, ref(9, 9))  # for another batch
    scene.clock.advance(4)
    scene.slots[0].begin(stage, 7, ref(5, 17))
    scene.clock.advance(8)
    scene.look()
    assert scene.reported == [Stall(stage, "shard-000005.tar", 17, 8.0, 12.0)]


def test_the_oldest_work_is_to_blame():
    scene = Scene()
    scene.slots[1].begin("read", 7, ref(1, 1))
    scene.clock.advance(5)
    scene.slots[0].begin("decode", 7, ref(2, 2))
    scene.clock.advance(5)
    scene.look()
    assert scene.reported == [Stall("read", "shard-000001.tar", 1, 10.0, 10.0)]


def test_a_batch_nobody_works_on_is_in_the_queue():
    scene = Scene()
    scene.slots[0].begin("read", 7, ref(1, 1))
    scene.slots[0].rest()
    scene.clock.advance(11)
    scene.look()
    assert scene.reported == [Stall("queue", "shard-000003.tar", 30, 11.0, 11.0)]


def test_a_stall_is_reported_once_and_the_next_one_again():
    scene = Scene()
    for _ in range(5):
        scene.clock.advance(10)
        scene.look()
    assert len(scene.reported) == 1
    scene.watch.begin()
    scene.clock.advance(10)
    scene.look()
    assert len(scene.reported) == scene.watch.stalls == 2


def test_a_wait_that_is_too_long_is_an_error_that_names_its_cause():
    scene = Scene(threshold=1000, timeout=60)
    scene.slots[0].begin("read", 7, ref(5, 17))
    scene.clock.advance(59)
    scene.look()
    scene.clock.advance(1)
    expected = r"No data for 60\.0 s: reading sample 17 of shard-000005\.tar has taken 60\.0 s so far\."
    with pytest.raises(UnavailableError, match=expected):
        scene.look()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("read", "reading sample 4 of a.tar has taken 2.0 s"),
        ("decode", "decoding sample 4 of a.tar has taken 2.0 s"),
        ("tokenize", "captions of the batch of sample 4 of a.tar has taken 2.0 s"),
        ("queue", "no thread has come to sample 4 of a.tar yet"),
    ],
)
def test_stalls_in_words(stage, words):
    assert words in str(Stall(stage, "a.tar", 4, 2.0, 3.0))

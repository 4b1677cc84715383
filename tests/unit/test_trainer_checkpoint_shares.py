"""Gathering shares through storage: all of them, only real ones, and not for ever."""

import pytest

from clip_testkit.memorystore import MemoryStore
from clip_trainer.checkpoint.background import AbandonedError
from clip_trainer.checkpoint.shares import Patience, gather
from clipctl.contract.commits import StoredObject
from clipctl.contract.errors import UnavailableError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.share import Share

CHECKPOINT = CheckpointId(5, 1)
EXPECTED = [{"weights-0": 3}, {"weights-1": 4, "optimizer-1": 2}, {}]


def share(rank, world=3, checkpoint=CHECKPOINT, expected=EXPECTED):
    objects = tuple(StoredObject.of(name, b"x" * size) for name, size in expected[rank].items())
    return Share(checkpoint, rank, world, objects)


def write(store, *shares):
    for one in shares:
        store.write(one.key, one.to_bytes())


class Waiting:
    """Time that passes in pauses; at each one the next of `events` happens."""

    def __init__(self, *events, deadline=600.0):
        self.now = 0.0
        self.pauses = []
        self._events = list(events)
        self.patience = Patience(lambda: self.now, self._pause, deadline)

    def _pause(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds
        if self._events:
            self._events.pop(0)()


def gathered(store, waiting):
    return [stored.name for stored in gather(store, share(0), EXPECTED, waiting.patience)]


def test_all_are_there():
    store, waiting = MemoryStore(), Waiting()
    write(store, share(1), share(2))
    assert gathered(store, waiting) == ["weights-0", "weights-1", "optimizer-1"]
    assert waiting.pauses == []


def test_a_single_rank_asks_nobody():
    waiting = Waiting()
    assert gather(None, share(0, world=1), EXPECTED[:1], waiting.patience) == list(share(0).objects)


def test_they_come_one_after_the_other_in_any_order():
    store = MemoryStore()
    waiting = Waiting(lambda: write(store, share(2)), lambda: None, lambda: write(store, share(1)))
    assert gathered(store, waiting) == ["weights-0", "weights-1", "optimizer-1"]
    assert len(waiting.pauses) == 3


def test_pauses_grow_while_nothing_comes():
    store = MemoryStore()
    write(store, share(2))
    waiting = Waiting(*[lambda: None] * 9, lambda: write(store, share(1)))
    gathered(store, waiting)
    assert waiting.pauses == sorted(waiting.pauses)
    assert waiting.pauses[0] < 0.1
    assert waiting.pauses[-1] == waiting.pauses[-2] == 2.0


@pytest.mark.parametrize(
    "wrong",
    [
        share(1, expected=[{}, {"weights-1": 4}, {}]),  # not all of it
        share(1, expected=[{}, {"weights-1": 4, "optimizer-1": 3}, {}]),  # another size
        share(1, checkpoint=CheckpointId(4, 1)),
        share(2),
    ],
    ids=["incomplete", "size", "checkpoint", "rank"],
)
def test_what_is_no_share_of_this_save_is_not_taken(wrong):
    store = MemoryStore()
    store.write(share(1).key, wrong.to_bytes())
    write(store, share(2))
    waiting = Waiting(lambda: write(store, share(1)))
    assert gathered(store, waiting) == ["weights-0", "weights-1", "optimizer-1"]
    assert len(waiting.pauses) == 1


@pytest.mark.parametrize(
    "data", [b"", b"{}", share(1).to_bytes()[:-9], share(1).to_bytes().replace(b'"size":4', b'"size":5')]
)
def test_a_damaged_record_is_waited_for(data):
    store = MemoryStore()
    store.write(share(1).key, data)
    write(store, share(2))
    waiting = Waiting(lambda: write(store, share(1)))
    assert len(gathered(store, waiting)) == 3


def test_a_record_of_another_number_of_ranks_is_not_looked_at():
    store = MemoryStore()
    write(store, share(1, world=2), share(2))
    waiting = Waiting(lambda: write(store, share(1)))
    assert len(gathered(store, waiting)) == 3
    assert len(waiting.pauses) == 1


def test_one_that_vanishes_between_listing_and_reading_is_waited_for(monkeypatch):
    store = MemoryStore()
    write(store, share(1), share(2))
    real, gone = store.read, []

    def read(key):
        if "share-00001" in key and not gone:
            gone.append(store.objects.pop(key))
        return real(key)

    monkeypatch.setattr(store, "read", read)
    waiting = Waiting(lambda: store.write(share(1).key, gone[0]))
    assert len(gathered(store, waiting)) == 3


def test_the_deadline_names_who_is_missing():
    store, waiting = MemoryStore(), Waiting(deadline=10.0)
    with pytest.raises(UnavailableError, match=r"no word of the share of rank 1, 2 within 10 s"):
        gathered(store, waiting)
    assert 10.0 <= waiting.now < 13.0


def test_giving_up_ends_the_waiting():
    def give_up():
        raise AbandonedError("enough")

    with pytest.raises(AbandonedError):
        gathered(MemoryStore(), Waiting(lambda: None, give_up))

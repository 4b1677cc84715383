"""The threads of a loader, and torch's own threads beside them."""

import threading
import time

import pytest
import torch

from clip_trainer.data.loading.threads import Crew


@pytest.fixture
def team():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def threads_now():
    return [thread for thread in threading.enumerate() if thread.name.startswith("clip-data")]


def test_torch_uses_one_thread_in_ours_and_as_many_as_before_elsewhere(team):
    seen = []

    def work(slot):
        torch.empty(1 << 20, dtype=torch.uint8).fill_(1)
        seen.append(torch.get_num_threads())

    Crew(time.monotonic, {work: 3}).join(60)
    assert seen == [1, 1, 1]
    assert torch.get_num_threads() == team
    elsewhere = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    elsewhere.start()
    elsewhere.join(60)
    assert seen[-1] == team


def test_every_thread_has_a_slot_of_its_own():
    seen, lock = [], threading.Lock()

    def work(slot):
        with lock:
            seen.append(slot)

    def other(slot):
        work(slot)

    crew = Crew(time.monotonic, {work: 2, other: 3})
    crew.join(60)
    assert set(map(id, seen)) == set(map(id, crew.slots))
    assert len(crew.slots) == 5
    assert not threads_now()


def test_a_thread_that_hangs_can_be_left_behind():
    leave = threading.Event()
    crew = Crew(time.monotonic, {lambda slot: leave.wait(60): 1})
    [thread] = threads_now()
    assert thread.daemon
    crew.join(0.01)
    assert thread.is_alive()
    crew.join(10**6)  # once left behind, nobody waits for it any more
    leave.set()
    thread.join(60)

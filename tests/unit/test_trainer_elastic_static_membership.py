"""One generation, from torchrun's variables or from none."""

import contextlib

import pytest

from clip_trainer.elastic import static_membership
from clip_trainer.elastic.membership import Generation, membership_from_environment
from clip_trainer.elastic.static_membership import StaticMembership
from clipctl.contract.errors import SpecError, TryAgainError

TORCHRUN = {
    "RANK": "2",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


def test_a_process_without_variables_is_a_generation_of_its_own():
    membership = membership_from_environment({})
    generation = membership.next()
    assert generation == Generation(1, 0, 1, ("rank-0",), "", 0)
    assert membership.local_rank == 0
    assert not membership.running
    assert not membership.changed()


@pytest.fixture
def awaited(monkeypatch):
    """The generations whose store was waited for."""
    found = []
    monkeypatch.setattr(static_membership, "await_store", found.append)
    return found


def test_torchruns_variables_name_the_place_and_the_store(awaited):
    membership = membership_from_environment(TORCHRUN)
    generation = membership.next()
    assert (generation.rank, generation.world, generation.number) == (2, 4, 1)
    assert generation.members == ("rank-0", "rank-1", "rank-2", "rank-3")
    assert (generation.host, generation.port) == ("10.0.0.7", 29500)
    assert membership.local_rank == 1
    assert awaited == [generation]


def test_there_is_no_second_generation(awaited):
    membership = membership_from_environment(TORCHRUN)
    membership.next()
    with pytest.raises(TryAgainError, match="lost") as caught:
        membership.next()
    assert int(caught.value.code) == 75
    with pytest.raises(TryAgainError):
        membership.next()


def test_leaving_and_closing_concern_nobody_else():
    membership = membership_from_environment({})
    membership.next()
    membership.leave()
    membership.close(0)
    assert not membership.changed()


def test_the_store_is_hosted_by_rank_0_when_it_enters():
    opened, generation = [], Generation(1, 0, 2, ("a", "b"), "localhost", 1234)
    membership = StaticMembership(generation, 0, opened.append)
    assert opened == []
    membership.next()
    assert opened == [generation]


class TestWaitingForTheStore:
    GENERATION = Generation(1, 1, 2, ("a", "b"), "rank-0.example", 1234)

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

        def pause(self, seconds):
            self.now += seconds

    def wait(self, opens_at):
        clock, asked = self.Clock(), []

        def connect(address, seconds):
            asked.append(address)
            if clock.now < opens_at:
                raise ConnectionRefusedError("refused")
            return contextlib.nullcontext()

        static_membership.await_store(self.GENERATION, connect, clock, clock.pause)
        return clock.now, asked

    def test_it_is_there(self):
        assert self.wait(0.0) == (0.0, [("rank-0.example", 1234)])

    def test_it_opens_late(self):
        assert self.wait(60.0)[0] == pytest.approx(60.0, abs=0.3)

    def test_it_never_opens(self):
        with pytest.raises(TryAgainError, match=r"store at rank-0\.example:1234: refused\."):
            self.wait(float("inf"))


@pytest.mark.parametrize(
    ("rank", "by_agent", "hosts"), [("0", "False", True), ("0", "True", False), ("1", "False", False)]
)
def test_who_hosts_the_store(rank, by_agent, hosts):
    environ = {**TORCHRUN, "RANK": rank, "TORCHELASTIC_USE_AGENT_STORE": by_agent}
    assert (StaticMembership.from_environment(environ)._reach_store is not static_membership.await_store) == hosts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RANK": "x"}, "RANK is 'x'"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "4"}, "WORLD_SIZE is 4"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR"),
        ({"MASTER_PORT": ""}, "MASTER_PORT"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT"),
        ({"LOCAL_RANK": "one"}, "LOCAL_RANK is 'one'"),
    ],
)
def test_variables_that_make_no_sense_are_named(changes, words):
    with pytest.raises(SpecError, match=words):
        membership_from_environment({**TORCHRUN, **changes})

"""A worker's side of the coordinator: against a real server in a thread, with a process group that is only recorded."""

import contextlib
import socket
import threading
import time

import pytest

from clip_trainer.elastic import coordinated_membership, coordinator_link
from clip_trainer.elastic.coordinated_membership import CoordinatedMembership
from clip_trainer.elastic.coordinator_server import CoordinatorServer
from clip_trainer.elastic.member_settings import MemberSettings
from clip_trainer.elastic.membership import ClosedError, PeerLostError
from clip_trainer.elastic.protocol import encode
from clip_trainer.elastic.run_members import Timing
from clip_trainer.elastic.verdict import RunVerdict
from clipctl.contract.errors import SpecError, TryAgainError, UnavailableError

SECONDS = 60.0
TIMING = Timing(beat=SECONDS, patience=SECONDS, reconnect=SECONDS, settle=0.0)
"""Nobody here is slow on purpose: a machine without time for us is no reason to drop a member."""


class Store:
    """Stands for a process group's store."""


class Room:
    """A coordinator, and members that record what is asked of their process group."""

    def __init__(self):
        self.server = CoordinatorServer(timing=TIMING).start()
        self.port = self.server.port
        self.members = []
        self.broken = {}
        self.stores = {}

    def member(self, name, *, maximum=2, minimum=1, last_call=0.0, seconds=SECONDS, opener=None):
        settings = MemberSettings(
            ("127.0.0.1", self.port), "run", f"{name}/0#0", name, 0, minimum, maximum, last_call, seconds, 3
        )
        self.broken[name], self.stores[name] = [], []

        def open_store():
            self.stores[name].append(Store())
            return self.stores[name][-1], 4000 + len(self.stores[name])

        self.members.append(CoordinatedMembership(settings, opener or open_store, self.broken[name].append))
        return self.members[-1]

    def together(self, *members):
        """Let all of them wait at once; returns their generations."""
        generations = [None] * len(members)

        def wait(index):
            generations[index] = members[index].next()

        threads = [threading.Thread(target=wait, args=(index,)) for index in range(len(members))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert all(generations), generations
        return generations

    def stop(self):
        for member in self.members:
            member._link.stop()
        self.server.stop()


@pytest.fixture
def room(monkeypatch):
    monkeypatch.setattr(coordinator_link, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(coordinated_membership, "_LOOK_SECONDS", 0.01)
    room = Room()
    yield room
    room.stop()


def eventually(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_process_alone_gets_a_generation(room):
    member = room.member("a")
    assert not member.running
    assert member.local_rank == 3
    generation = member.next()
    assert (generation.number, generation.rank, generation.world) == (1, 0, 1)
    assert not member.changed()


def test_two_members_meet_at_the_leaders_store(room):
    first, second = room.member("a", minimum=2), room.member("b", minimum=2)
    one, two = room.together(first, second)
    assert one.members == two.members == ("a/0#0", "b/0#0")
    assert (one.rank, two.rank) == (0, 1)
    assert (one.host, one.port) == (two.host, two.port) == ("127.0.0.1", 4001)
    assert len(room.stores["a"]) == 1
    assert room.stores["b"] == []


def test_the_leader_keeps_its_store_for_the_generation_and_opens_another_for_the_next(room):
    first, second = room.member("a", minimum=2), room.member("b", minimum=2)
    room.together(first, second)
    assert first._store is room.stores["a"][0]
    generations = room.together(first, second)
    assert generations[0].port == 4002
    assert first._store is room.stores["a"][1]


def test_a_newcomer_changes_the_generation_without_breaking_it(room):
    first = room.member("a")
    first.next()
    second = room.member("b")
    assert second.running
    thread = threading.Thread(target=second.next)
    thread.start()
    eventually(first.changed)
    assert room.broken["a"] == []
    assert first.next().world == 2
    assert not first.changed()
    thread.join(SECONDS)


def test_a_lost_member_breaks_the_group_and_closes_its_store(room):
    first, second = room.member("a", minimum=2), room.member("b", minimum=2)
    room.together(first, second)
    second._link.stop()  # as when its process is killed: the connection ends
    eventually(first.changed)
    eventually(lambda: room.broken["a"] == [1])
    assert first._store is None


def test_leaving_is_noticed_at_once(room):
    first, second = room.member("a", minimum=2), room.member("b", minimum=2)
    room.together(first, second)
    second.leave()
    eventually(lambda: room.broken["a"] == [1])


def test_a_closed_run_is_over_for_everybody(room):
    first, second = room.member("a", minimum=2), room.member("b", minimum=2)
    room.together(first, second)
    first.close(0)
    eventually(second.changed)
    with pytest.raises(ClosedError) as caught:
        second.next()
    assert caught.value.code == 0
    assert room.broken["b"] == []  # whoever finishes first does not disturb the others' last step


def test_an_error_that_closes_the_run_breaks_collectives(room):
    first, second = room.member("a", minimum=2), room.member("b", minimum=2)
    room.together(first, second)
    verdict = RunVerdict(f"127.0.0.1:{room.port}", "run")
    verdict.close(66)
    eventually(lambda: room.broken["a"] == [1] and room.broken["b"] == [1])
    for member in (first, second):
        with pytest.raises(ClosedError) as caught:
            member.next()
        assert caught.value.code == 66
    eventually(lambda: verdict.closed() == 66)
    verdict.stop()


def test_a_dropped_member_tries_again_as_a_new_process(room):
    first = room.member("a")
    first.next()
    room.member("a").next()  # the same slot: the first one is taken for dead
    eventually(first.changed)
    with pytest.raises(TryAgainError, match="left a/0#0 out"):
        first.next()


def test_a_leader_that_cannot_open_a_store_does_not_answer(room):
    def fail():
        raise PeerLostError("no port")

    first, second = room.member("a", minimum=2, opener=fail), room.member("b", minimum=2)
    for member in (first, second):
        threading.Thread(target=_quietly, args=(member.next,), daemon=True).start()
    run = room.server._coordinator._runs
    eventually(lambda: "run" in run and run["run"].members._forming is not None)
    assert not first.changed()


def _quietly(function):
    with contextlib.suppress(Exception):
        function()


def test_the_coordinator_may_be_replaced_without_a_change(room):
    first, second = room.member("a", minimum=2), room.member("b", minimum=2)
    room.together(first, second)
    room.server.stop()
    eventually(lambda: first._link.down_seconds() > 0 and second._link.down_seconds() > 0)
    room.server = CoordinatorServer(port=room.port, timing=TIMING).start()
    eventually(lambda: len(room.server._clients) == 2)
    eventually(lambda: not first._link.down_seconds() and not second._link.down_seconds())
    assert not first.changed()
    assert not second.changed()
    assert [generation.number for generation in room.together(first, second)] == [3, 3]
    assert room.broken == {"a": [], "b": []}


def test_waiting_survives_a_coordinator_that_is_replaced(room):
    first = room.member("a", minimum=2)
    got = []
    thread = threading.Thread(target=lambda: got.append(first.next()))
    thread.start()
    eventually(lambda: first._waiting)
    room.server.stop()
    room.server = CoordinatorServer(port=room.port, timing=TIMING).start()
    second = room.member("b", minimum=2)
    assert second.next().world == 2
    thread.join(SECONDS)
    assert got[0].rank == 0


def test_next_gives_up_when_no_coordinator_answers(room):
    room.server.stop()
    member = room.member("a", seconds=0.05)
    with pytest.raises(UnavailableError, match="No coordinator has answered") as caught:
        member.next()
    assert int(caught.value.code) == 69
    with pytest.raises(UnavailableError):
        _ = member.running


def test_somebody_who_listens_but_says_nothing_is_no_coordinator(room):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        room.port = silent.getsockname()[1]
        member = room.member("a", seconds=0.05)
        with pytest.raises(UnavailableError):
            member.next()


def test_nonsense_from_the_coordinator_makes_a_new_connection(room):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)
        room.port = server.getsockname()[1]
        member = room.member("a")
        for line in (b"nonsense\n", encode({"type": "welcome", "running": True})):
            connection, _ = server.accept()
            with connection:
                assert b"hello" in connection.recv(1 << 16)
                connection.sendall(line)
                if line.startswith(b"{"):
                    assert member.running


def test_closing_is_repeated_to_a_new_coordinator(room, monkeypatch):
    monkeypatch.setattr(coordinated_membership, "FAREWELL_SECONDS", SECONDS)
    member = room.member("a")
    member.next()
    room.server.stop()
    thread = threading.Thread(target=member.close, args=(0,))
    thread.start()
    eventually(lambda: member._closing == 0)
    room.server = CoordinatorServer(port=room.port, timing=TIMING).start()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert member._code == 0


def test_a_verdict_is_unknown_without_a_coordinator_and_told_when_there_is_one(room):
    room.server.stop()
    verdict = RunVerdict(f"127.0.0.1:{room.port}", "run")
    assert verdict.closed() is None
    verdict.close(77)
    assert verdict.closed() is None
    room.server = CoordinatorServer(port=room.port).start()
    eventually(lambda: verdict.closed() == 77)
    verdict.stop()


def test_the_first_verdict_decides(room):
    first, second = (RunVerdict(f"127.0.0.1:{room.port}", "run") for _ in range(2))
    first.close(66)
    first.close(0)
    eventually(lambda: first.closed() == 66)
    second.close(78)
    eventually(lambda: second.closed() == 66)
    first.stop()
    second.stop()


def test_other_runs_are_not_closed(room):
    verdict, other = (RunVerdict(f"127.0.0.1:{room.port}", run) for run in ("run-1", "run-2"))
    verdict.close(66)
    eventually(lambda: verdict.closed() == 66)
    assert other.closed() is None
    other.stop()
    verdict.stop()


def test_a_verdict_needs_an_address():
    with pytest.raises(SpecError, match="HOST:PORT"):
        RunVerdict("nowhere", "run")

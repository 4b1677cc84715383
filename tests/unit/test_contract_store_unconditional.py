"""Creating without conditional writes: of two contenders at most one wins, whatever the order of their requests."""

import itertools
import threading

import pytest

from clip_testkit.memorystore import MemoryStore
from clipctl.contract.errors import UnavailableError
from clipctl.contract.store_unconditional import create_by_claim, has_conditions


class Refusal(Exception):
    def __init__(self, code):
        self.response = {"Error": {"Code": code}}


class InTurns:
    """A store on which two threads act in the order of a schedule, one request at a time."""

    def __init__(self, store, turns, name):
        self._store, self._turns, self._name = store, turns, name

    def __getattr__(self, method):
        def act(*arguments):
            with self._turns.turn_of(self._name):
                return getattr(self._store, method)(*arguments)

        return act


class Turns:
    def __init__(self, schedule):
        self._schedule, self._done, self._changed = list(schedule), set(), threading.Condition()

    def turn_of(self, name):
        turns = self

        class Turn:
            def __enter__(self):
                with turns._changed:
                    assert turns._changed.wait_for(lambda: turns._next() in (name, None), 60)

            def __exit__(self, *exception):
                with turns._changed:
                    if turns._schedule:
                        turns._schedule.pop(0)
                    turns._changed.notify_all()

        return Turn()

    def finished(self, name):
        with self._changed:
            self._done.add(name)
            self._changed.notify_all()

    def _next(self):
        while self._schedule and self._schedule[0] in self._done:
            self._schedule.pop(0)
        return self._schedule[0] if self._schedule else None


def contest(schedule):
    store, turns, won = MemoryStore(), Turns(schedule), {}

    def contend(name):
        try:
            won[name] = create_by_claim(InTurns(store, turns, name), "k", name.encode())
        finally:
            turns.finished(name)

    threads = [threading.Thread(target=contend, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return store, [name for name in "ab" if won[name]]


def test_every_order_of_two_contenders():
    """Seven requests of the winner, seven of the other: all 3432 ways to mix them would repeat themselves behind the
    decisive ones, so the first five of each are mixed in all ways."""
    outcomes = set()
    for places in itertools.combinations(range(10), 5):
        store, winners = contest("".join("a" if turn in places else "b" for turn in range(10)) + "aabb" * 2)
        assert len(winners) <= 1
        assert store.objects == ({"k": winners[0].encode()} if winners else {})
        outcomes.add("".join(winners))
    assert outcomes == {"a", "b", ""}


def test_one_after_the_other():
    store = MemoryStore()
    assert create_by_claim(store, "k", b"1")
    assert not create_by_claim(store, "k", b"2")
    assert create_by_claim(store, "k2", b"3")
    assert store.objects == {"k": b"1", "k2": b"3"}


def test_a_write_without_an_answer_keeps_the_key_closed():
    """The request may still arrive: nobody else may be told that the key is free."""
    store = MemoryStore()

    def write(key, data):
        if key == "k":
            raise UnavailableError("no answer")
        MemoryStore.write(store, key, data)

    store.write = write
    with pytest.raises(UnavailableError):
        create_by_claim(store, "k", b"1")
    del store.write
    assert not create_by_claim(store, "k", b"2")
    assert "k" not in store.objects


class TestProbe:
    @pytest.mark.parametrize(
        ("answers", "found"),
        [
            (["ok", "PreconditionFailed"], True),
            (["ok", "412"], True),
            (["ConditionalRequestConflict"], True),
            (["ok", "ok"], False),
            (["NotImplemented"], False),
            (["501"], False),
            (["ok", "501"], False),
        ],
    )
    def test_what_the_answers_mean(self, answers, found):
        store, left = MemoryStore(), iter(answers)

        def put(key, data):
            answer = next(left)
            if answer != "ok":
                raise Refusal(answer)
            store.write(key, data)

        assert has_conditions(store, put) is found
        assert store.objects == {}
        assert list(left) == []

    def test_anything_else_is_not_decided(self):
        def put(key, data):
            raise Refusal("AccessDenied")

        with pytest.raises(Refusal):
            has_conditions(MemoryStore(), put)

    def test_a_probe_that_may_not_be_deleted_is_no_failure(self):
        store = MemoryStore()

        def refuse(key):
            raise UnavailableError("no")

        store.delete = refuse
        assert has_conditions(store, store.write) is False

"""Leader election with fake clocks: at most one leader at any instant, whatever fails and however clocks jump."""

import random
from dataclasses import dataclass

import pytest

from clip_operator.api import LEASES, UnreachableError
from clip_operator.lease import LeaderElector, LeaseTiming
from clip_testkit.directapi import DirectApi
from clip_testkit.fakeapi_objects import FakeObjects

NAMESPACE = "clip-system"


@dataclass
class Clock:
    """Seconds by hand."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def candidate(objects: FakeObjects, clock: Clock, name: str, wall: float = 1e9) -> tuple[LeaderElector, DirectApi]:
    api = DirectApi(objects)
    return LeaderElector(api, NAMESPACE, "op", name, monotonic=clock, wall=lambda: wall + clock.now), api


def lease(objects: FakeObjects) -> dict[str, object]:
    found: dict[str, object] = objects.get((LEASES.api_version, LEASES.plural), NAMESPACE, "op")["spec"]
    return found


def test_the_first_leads_and_keeps_leading() -> None:
    objects, clock = FakeObjects(), Clock()
    first, _ = candidate(objects, clock, "a")
    second, _ = candidate(objects, clock, "b")
    for _ in range(30):
        assert first.step()
        assert not second.step()
        clock.now += 2
    assert lease(objects)["leaseTransitions"] == 0


def test_a_dead_leader_is_followed_after_the_whole_duration() -> None:
    objects, clock = FakeObjects(), Clock()
    first, _ = candidate(objects, clock, "a")
    second, _ = candidate(objects, clock, "b")
    assert first.step()
    assert not second.step()
    died = clock.now
    while not second.step():
        clock.now += 1
    assert clock.now - died >= LeaseTiming().duration
    assert not first.is_leader()
    assert lease(objects)["leaseTransitions"] == 1
    assert not first.step(), "the old leader notices"


def test_a_released_lease_is_taken_at_once() -> None:
    objects, clock = FakeObjects(), Clock()
    first, _ = candidate(objects, clock, "a")
    second, _ = candidate(objects, clock, "b")
    first.step()
    second.step()
    first.release()
    assert not first.is_leader()
    assert second.step()


def test_releasing_what_is_not_held_touches_nothing() -> None:
    objects, clock = FakeObjects(), Clock()
    first, _ = candidate(objects, clock, "a")
    second, api = candidate(objects, clock, "b")
    first.step()
    second.step()
    calls = len(api.calls)
    second.release()
    assert len(api.calls) == calls


def test_errors_cost_leadership_only_when_the_deadline_passes() -> None:
    objects, clock = FakeObjects(), Clock()
    leader, api = candidate(objects, clock, "a")
    assert leader.step()
    api.errors += [("get", "leases", UnreachableError("down"))] * 100
    clock.now += 9
    assert leader.step()
    clock.now += 2
    assert not leader.step()


def test_wall_clocks_do_not_matter() -> None:
    objects, clock = FakeObjects(), Clock()
    first, _ = candidate(objects, clock, "a", wall=0.0)
    second, _ = candidate(objects, clock, "b", wall=4e9)
    assert first.step()
    assert not second.step()
    clock.now += 5
    assert first.step()
    clock.now += 11
    assert not second.step(), "the lease was renewed 11 seconds ago"


def test_a_lease_written_by_somebody_else_in_between_is_not_overwritten() -> None:
    objects, clock = FakeObjects(), Clock()
    first, _ = candidate(objects, clock, "a")
    first.step()
    place = (LEASES.api_version, LEASES.plural)
    objects.merge(place, NAMESPACE, "op", {"spec": {"holderIdentity": "thief"}})
    assert not first.step()


@pytest.mark.parametrize("seed", range(6))
def test_never_two_leaders(seed: int) -> None:
    """Random freezes, lost answers and clocks that run at different speeds (up to 5 %)."""
    rng = random.Random(seed)
    objects, truth = FakeObjects(), [0.0]
    clocks = [Clock() for _ in range(3)]
    speeds = [rng.uniform(0.95, 1.05) for _ in clocks]
    candidates = [candidate(objects, clock, f"c{index}") for index, clock in enumerate(clocks)]
    frozen = [0.0] * 3
    led = set()
    for _ in range(3000):
        truth[0] += 0.5
        for clock, speed in zip(clocks, speeds, strict=True):
            clock.now += 0.5 * speed
        index = rng.randrange(3)
        elector, api = candidates[index]
        if rng.random() < 0.02:
            frozen[index] = truth[0] + rng.uniform(0, 40)
        if rng.random() < 0.1:
            api.errors.append((rng.choice(["get", "replace"]), "leases", UnreachableError("lost")))
        if truth[0] >= frozen[index]:
            elector.step()
        leaders = [name for name, (one, _) in enumerate(candidates) if one.is_leader()]
        assert len(leaders) <= 1
        led |= set(leaders)
    assert len(led) > 1, "the history must contain a change of leader"

"""List and watch: missed, repeated and reordered events, 410, errors, and what is remembered of deleted pods."""

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_operator.api import PODS, PYTORCHJOBS, ForbiddenError, NotFoundError, UnreachableError
from clip_operator.watching import Cache, Informer
from clip_testkit import runs
from clip_testkit.directapi import DirectApi
from clip_testkit.fakeapi_objects import FakeObjects

KEY = (runs.NAMESPACE, runs.RUN)
PLACE = ("v1", "pods")


def informer(objects: FakeObjects) -> tuple[Informer, DirectApi, list[Any]]:
    api, seen = DirectApi(objects), []
    return Informer(api, PODS, runs.NAMESPACE, seen.append), api, seen


def make(objects: FakeObjects, index: int = 0) -> None:
    raw = runs.pod(index=index)
    objects.create(PLACE, runs.NAMESPACE, {**raw, "metadata": {**raw["metadata"]}})


def names_of(cache: Cache) -> set[str]:
    return {raw["metadata"]["name"] for raw in cache.of_run(KEY)}


def test_list_then_watch_follows_changes() -> None:
    objects = FakeObjects()
    make(objects)
    watcher, _, seen = informer(objects)
    watcher.sync()
    assert seen == [KEY]
    make(objects, 1)
    objects.merge(PLACE, runs.NAMESPACE, "demo-1-worker-0", {"status": {"phase": "Failed"}})
    watcher.follow()
    assert {raw["status"]["phase"] for raw in watcher.cache.of_run(KEY)} == {"Failed", "Running"}
    objects.delete(PLACE, runs.NAMESPACE, "demo-1-worker-0")
    watcher.follow()
    assert names_of(watcher.cache) == {"demo-1-worker-1"}
    assert [raw["metadata"]["name"] for raw in watcher.cache.departed(KEY)] == ["demo-1-worker-0"]
    assert seen == [KEY] * 4


def test_deletions_missed_while_the_watch_was_down_are_found_by_the_next_list() -> None:
    objects = FakeObjects()
    make(objects)
    make(objects, 1)
    watcher, _, seen = informer(objects)
    watcher.sync()
    objects.delete(PLACE, runs.NAMESPACE, "demo-1-worker-0")
    objects.delete(PLACE, runs.NAMESPACE, "demo-1-worker-1")
    objects.compact()
    seen.clear()
    watcher.sync()
    assert seen == [KEY], "a run that lost everything is still reported"
    assert names_of(watcher.cache) == set()
    assert len(watcher.cache.departed(KEY)) == 2


class Script:
    """A stopping event that runs a step of a script each time it would wait or be asked."""

    def __init__(self, rounds: int) -> None:
        self.rounds, self.waits = rounds, []

    def is_set(self) -> bool:
        self.rounds -= 1
        return self.rounds < 0

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return False


def test_410_lists_again_at_once_and_errors_back_off() -> None:
    objects = FakeObjects()
    make(objects)
    watcher, api, _ = informer(objects)
    restarts: list[str] = []
    watcher._on_restart = restarts.append
    original = api.watch

    def watch(*arguments: Any) -> Any:
        objects.compact() if len(restarts) == 0 else None
        return original(*arguments)

    api.watch = watch  # type: ignore[method-assign]
    api.errors += [("list", "pods", UnreachableError("down"))] * 2
    script = Script(6)
    watcher.run(script, 600, lambda: 0.0)  # type: ignore[arg-type]
    assert script.waits == [1.0, 2.0]
    assert [call[0] for call in api.calls].count("list") >= 3
    assert names_of(watcher.cache) == {"demo-1-worker-0"}
    assert watcher.problem == ""


def test_gone_from_the_watch_relists_without_waiting() -> None:
    objects = FakeObjects()
    watcher, api, _ = informer(objects)
    watcher.sync()
    objects.compact()
    script = Script(3)
    listed = [0.0]
    watcher.run(script, 600, lambda: listed[0])  # type: ignore[arg-type]
    assert script.waits == []
    assert [call[0] for call in api.calls].count("list") >= 2


def test_relists_periodically() -> None:
    objects = FakeObjects()
    watcher, api, _ = informer(objects)
    ticks = iter(range(0, 100_000, 400))
    watcher.run(Script(5), 600, lambda: float(next(ticks)))  # type: ignore[arg-type]
    assert [call[0] for call in api.calls].count("list") >= 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotFoundError("404"), "install Kubeflow training-operator"),
        (ForbiddenError("403"), "apply the Role of charts/clip-operator"),
        (UnreachableError("no route"), "no route"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(error: Exception, words: str) -> None:
    api = DirectApi(FakeObjects())
    watcher = Informer(api, PYTORCHJOBS, runs.NAMESPACE, lambda _: None)
    api.errors.append(("list", "pytorchjobs", error))
    watcher.run(Script(1), 600, lambda: 0.0)  # type: ignore[arg-type]
    assert words in watcher.problem
    assert not watcher.synced.is_set()


def test_stopping_ends_the_thread() -> None:
    watcher, _, _ = informer(FakeObjects())
    stopping = threading.Event()
    stopping.set()
    watcher.run(stopping, 600, lambda: 0.0)
    assert not watcher.synced.is_set()


def test_a_pod_whose_label_changes_moves_to_the_other_run() -> None:
    cache = Cache()
    raw = runs.pod()
    cache.apply({"type": "ADDED", "object": raw})
    moved = {**raw, "metadata": {**raw["metadata"], "labels": {"clipctl.dev/run": "other"}}}
    cache.apply({"type": "MODIFIED", "object": moved})
    assert cache.of_run(KEY) == []
    assert cache.of_run((runs.NAMESPACE, "other")) == [moved]


def test_bookmarks_move_the_version_only() -> None:
    cache = Cache()
    assert cache.apply({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "77"}}}) is None
    assert cache.version == "77"
    assert cache.apply({"type": "SOMETHING_NEW"}) is None


def test_departed_pods_are_bounded_and_forgotten_with_the_run() -> None:
    cache = Cache()
    for index in range(100):
        cache.apply({"type": "DELETED", "object": runs.pod(index=index)})
    assert len(cache.departed(KEY)) == 32
    cache.forget(KEY)
    assert cache.departed(KEY) == []


@given(st.lists(st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED"]), st.integers(0, 2)), max_size=30))
def test_repeated_and_reordered_events_are_repaired_by_a_list(events: list[tuple[str, int]]) -> None:
    cache = Cache()
    for kind, index in events:
        cache.apply({"type": kind, "object": runs.pod(index=index)})
    truth = [runs.pod(index=0), runs.pod(index=1)]
    cache.replace(truth, "9")
    assert names_of(cache) == {"demo-1-worker-0", "demo-1-worker-1"}
    assert cache.runs() == {KEY}

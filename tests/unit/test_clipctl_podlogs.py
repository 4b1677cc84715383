import contextlib
import threading

import pytest

from clipctl.apply.podlogs import _Seen, follow_logs, read_log
from clipctl.contract.errors import MissingError, SpecError, UnavailableError


class Stream:
    def __init__(self, chunks):
        self._chunks = chunks

    def stream(self, amount, decode_content):
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


class ScriptedCluster:
    """Answers every request for a pod's log with the next scripted answer."""

    def __init__(self, answers):
        self.answers = {pod: list(script) for pod, script in answers.items()}
        self.queries = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def open_log(self, pod, query, read_seconds):
        with self._lock:
            self.queries.append((pod, dict(query)))
            script = self.answers.get(pod) or []
            answer = script.pop(0) if script else []
        if isinstance(answer, Exception):
            raise answer
        yield Stream(answer)

    def told_everything(self):
        with self._lock:
            return not any(self.answers.values())


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("clipctl.apply.podlogs._RETRY_SECONDS", 0.01)
    monkeypatch.setattr("clipctl.apply.podlogs._LAST_LOOK_SECONDS", 60)


def stamp(second, fraction=0):
    return f"2026-01-01T00:00:{second:02d}.{fraction:09d}Z"


def follow(cluster, pods):
    """Lines until the followers, however late they run, have taken every scripted answer."""
    left = iter(range(3000))
    pause = threading.Event()
    return list(
        follow_logs(
            cluster,
            pods,
            lambda: cluster.told_everything() or next(left, None) is None,
            lambda seconds: pause.wait(0.02),
        )
    )


def test_lines_are_put_together_from_chunks():
    cluster = ScriptedCluster({"p": [[b"a\nb", b"b\r\n\xff", b"end"]]})
    assert list(read_log(cluster, "p")) == ["a", "bb", "\ufffdend"]


def test_a_line_without_end_does_not_fill_the_memory():
    cluster = ScriptedCluster({"p": [[b"x" * (1 << 20), b"y", b"z\n"]]})
    assert [len(line) for line in read_log(cluster, "p")] == [(1 << 20) + 1, 1]


@pytest.mark.parametrize("error", [MissingError("gone."), SpecError("waiting to start.")])
def test_a_pod_that_has_no_log_yet_has_no_lines(error):
    assert list(read_log(ScriptedCluster({"p": [error]}), "p")) == []


def test_following_attaches_again_where_it_broke_off_without_repeating_lines():
    first, second = f"{stamp(1)} one\n", f"{stamp(2, 5)} two\n"
    third = f"{stamp(2, 7)} three\n"
    cluster = ScriptedCluster(
        {
            "p": [
                UnavailableError("not yet."),
                [first.encode(), second.encode(), OSError("connection reset")],
                [second.encode(), third.encode()],
                [third.encode(), f"{stamp(3)} after restart\n".encode()],
            ]
        }
    )
    lines = follow(cluster, lambda: ["p"])
    assert [line for _, line in lines] == ["one", "two", "three", "after restart"]
    since = [query.get("sinceTime") for _, query in cluster.queries]
    assert since[:4] == [None, None, "2026-01-01T00:00:02Z", "2026-01-01T00:00:02Z"]


def test_following_picks_up_pods_that_come_later():
    cluster = ScriptedCluster({"a": [[f"{stamp(1)} from a\n".encode()]], "b": [[f"{stamp(1)} from b\n".encode()]]})
    looks = []

    def pods():
        looks.append(1)
        return ["a"] if len(looks) < 3 else ["a", "b"]

    assert sorted(follow(cluster, pods)) == [("a", "from a"), ("b", "from b")]


def test_the_last_look_does_not_wait_for_more():
    cluster = ScriptedCluster({"p": [[], [f"{stamp(1)} last words\n".encode()]]})
    assert [line for _, line in follow(cluster, lambda: ["p"])] == ["last words"]
    assert cluster.queries[-1][1]["follow"] == "false"


def test_equal_times_are_told_apart_by_their_lines():
    seen = _Seen()
    assert seen.is_new(stamp(1), "a")
    assert seen.is_new(stamp(1), "b")
    assert not seen.is_new(stamp(1), "a")
    assert seen.is_new(stamp(2), "a")
    assert not seen.is_new(stamp(1), "c")

"""Following the logs of pods through container restarts, pod replacement and broken connections."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import urllib3

from clipctl.apply.cluster import Cluster
from clipctl.contract.errors import ClipError, MissingError, SpecError
from clipctl.contract.names import CONTAINER

_READ_SECONDS = 60.0
_RETRY_SECONDS = 2.0
_LAST_LOOK_SECONDS = 3.0  # for each pod, once the run has ended
_TAIL_BYTES = 64 * 1024
_MAX_LINE = 1 << 20


_Lines = queue.Queue[tuple[str, str]]


@dataclass
class _Seen:
    """How far the log of one pod has been printed: time of the last line, and the lines with exactly that time."""

    since: str = ""
    at_since: list[str] = field(default_factory=list)

    def is_new(self, stamp: str, line: str) -> bool:
        """Whether a line that the server sent again (sinceTime has a resolution of a second) was printed before."""
        if stamp < self.since or (stamp == self.since and line in self.at_since):
            return False
        if stamp > self.since:
            self.since, self.at_since = stamp, []
        self.at_since.append(line)
        return True


def read_log(cluster: Cluster, pod: str) -> Iterator[str]:
    """All lines the current container of `pod` has printed; nothing if it has not started."""
    query = {"container": CONTAINER, "timestamps": "false"}
    try:
        with cluster.open_log(pod, query, _READ_SECONDS) as response:
            yield from _lines(response)
    except (SpecError, MissingError):
        return  # still waiting to start, or gone


def follow_logs(
    cluster: Cluster,
    pods: Callable[[], list[str]],
    ended: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[str, str]]:
    """Lines of all pods as they come, as (pod, line), until `ended` says so and all logs are drained.

    Args:
        cluster: where the pods are.
        pods: names of the pods to follow; asked again and again, because pods come and go.
        ended: whether the run has ended.
        sleep: waits between two looks at the cluster.
    """
    lines: _Lines = queue.Queue(maxsize=10_000)
    stop = threading.Event()
    followers: dict[str, threading.Thread] = {}
    try:
        while True:
            finished = ended()
            for pod in pods():
                if pod not in followers:
                    arguments = (cluster, pod, lines, stop)
                    followers[pod] = threading.Thread(target=_follow_pod, args=arguments, daemon=True)
                    followers[pod].start()
            yield from _drain(lines)
            if finished:
                stop.set()
                for thread in followers.values():
                    thread.join(timeout=_LAST_LOOK_SECONDS)
                yield from _drain(lines)
                return
            sleep(_RETRY_SECONDS / 4)
    finally:
        stop.set()


def _drain(lines: _Lines) -> Iterator[tuple[str, str]]:
    while True:
        try:
            item = lines.get_nowait()
        except queue.Empty:
            return
        yield item


def _follow_pod(cluster: Cluster, pod: str, lines: _Lines, stop: threading.Event) -> None:
    seen = _Seen()
    while True:
        last_look = stop.is_set()
        try:
            for line in _attach(cluster, pod, seen, follow=not last_look):
                lines.put((pod, line))
        except (ClipError, urllib3.exceptions.HTTPError, OSError):
            pass  # not started yet, replaced, or the connection broke: look again
        if last_look:
            return
        stop.wait(_RETRY_SECONDS)


def _attach(cluster: Cluster, pod: str, seen: _Seen, *, follow: bool) -> Iterator[str]:
    query: dict[str, Any] = {"container": CONTAINER, "timestamps": "true", "follow": "true" if follow else "false"}
    if seen.since:
        query["sinceTime"] = seen.since.partition(".")[0].rstrip("Z") + "Z"
    with cluster.open_log(pod, query, _READ_SECONDS) as response:
        for stamped in _lines(response):
            stamp, _, line = stamped.partition(" ")
            if seen.is_new(stamp, line):
                yield line


def _lines(response: Any) -> Iterator[str]:
    """Lines of a streamed response; a line longer than 1 MiB is cut so that memory stays bounded."""
    rest = b""
    for chunk in response.stream(_TAIL_BYTES, decode_content=True):
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line.decode("utf-8", "replace").rstrip("\r")
        if len(rest) > _MAX_LINE:
            yield rest.decode("utf-8", "replace")
            rest = b""
    if rest:
        yield rest.decode("utf-8", "replace")

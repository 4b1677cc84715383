"""A worker pod as the policies see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clip_operator.api import Object
from clip_operator.causes import Failure, pod_failures
from clip_operator.edited import attempt_of
from clip_operator.moments import parse_time
from clipctl.contract import names


@dataclass(frozen=True)
class PodView:
    """One worker pod. Times are Unix seconds.

    `deletion_due` is when Kubernetes promised it would be gone (request time plus grace), None if nobody deletes it.
    `node_lost` is True only if its node is known to be absent or not ready. `gone` pods were seen and have left.
    """

    name: str
    uid: str
    attempt: int
    phase: str
    node: str = ""
    node_lost: bool = False
    deletion_due: float | None = None
    restarts: int = 0
    failures: tuple[Failure, ...] = ()
    waiting: tuple[str, str] | None = None
    gone: bool = False

    @property
    def live(self) -> bool:
        """Whether its trainer may still be running."""
        return not self.gone and self.phase in ("Pending", "Running", "Unknown")

    @classmethod
    def parse(cls, raw: Object, *, node_lost: bool = False, gone: bool = False) -> PodView:
        """Summarise a pod."""
        metadata, status, spec = raw["metadata"], raw.get("status") or {}, raw.get("spec") or {}
        containers = [c for c in status.get("containerStatuses") or () if c.get("name") == names.CONTAINER]
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            attempt=attempt_of(metadata),
            phase=status.get("phase", "Pending"),
            node=spec.get("nodeName") or "",
            node_lost=node_lost,
            deletion_due=parse_time(metadata.get("deletionTimestamp")),
            restarts=sum(int(c.get("restartCount", 0)) for c in containers),
            failures=pod_failures(raw),
            waiting=_waiting(status, containers),
            gone=gone,
        )


def _waiting(status: Mapping[str, Any], containers: list[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Reason and message of what the pod waits for."""
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return str(waiting["reason"]), str(waiting.get("message", ""))
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason", "Unschedulable")), str(condition.get("message", ""))
    return None

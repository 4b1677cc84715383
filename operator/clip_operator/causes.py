"""Why a worker failed, read from its pod's status: exit codes, OOM kills, evictions, lost nodes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clipctl.contract import names
from clipctl.contract.errors import PERMANENT_CODES, ExitCode
from clipctl.contract.redact import redact

_MESSAGE_CHARACTERS = 600

# The cause of a group of failures is the first in this order. Losing a peer makes healthy workers exit with 75, so
# preemption explains a failure only if nothing else does.
_PRIORITY = (
    names.CAUSE_USER_ERROR,
    names.CAUSE_DATA,
    names.CAUSE_OUT_OF_MEMORY,
    names.CAUSE_HANG,
    names.CAUSE_NODE_LOST,
    names.CAUSE_INFRASTRUCTURE,
    names.CAUSE_PREEMPTION,
)
_CODE_CAUSES: Mapping[int, str] = {
    ExitCode.USAGE: names.CAUSE_USER_ERROR,
    ExitCode.MISSING: names.CAUSE_USER_ERROR,
    ExitCode.PROTOCOL: names.CAUSE_USER_ERROR,
    ExitCode.PERMISSION: names.CAUSE_USER_ERROR,
    ExitCode.CLUSTER_CONFIG: names.CAUSE_USER_ERROR,
    ExitCode.CORRUPT: names.CAUSE_DATA,
    ExitCode.TRY_AGAIN: names.CAUSE_PREEMPTION,
    ExitCode.HUNG: names.CAUSE_HANG,
    128 + 15: names.CAUSE_PREEMPTION,  # ended by SIGTERM before it could handle it
}
_POD_REASONS: Mapping[str, str] = {
    "NodeLost": names.CAUSE_NODE_LOST,
    "NodeShutdown": names.CAUSE_PREEMPTION,
    "Terminated": names.CAUSE_PREEMPTION,  # graceful node shutdown, newer kubelets
    "Shutdown": names.CAUSE_PREEMPTION,
    "Preempting": names.CAUSE_PREEMPTION,
    "Preempted": names.CAUSE_PREEMPTION,
    "PreemptionByScheduler": names.CAUSE_PREEMPTION,
    "EvictionByEvictionAPI": names.CAUSE_PREEMPTION,
    "DeletionByTaintManager": names.CAUSE_NODE_LOST,
    "DeletionByPodGC": names.CAUSE_NODE_LOST,
    "Evicted": names.CAUSE_INFRASTRUCTURE,
    "TerminationByKubelet": names.CAUSE_INFRASTRUCTURE,
}


@dataclass(frozen=True)
class Failure:
    """One failure of one worker. `code` is the exit code, None if the pod died without one."""

    cause: str
    code: int | None
    pod: str
    message: str

    @property
    def permanent(self) -> bool:
        """Whether running the same thing again cannot help."""
        return self.code in PERMANENT_CODES

    def to_json(self) -> dict[str, Any]:
        """For the last-failure annotation."""
        return {"cause": self.cause, "code": self.code, "pod": self.pod, "message": self.message}

    @classmethod
    def from_json(cls, raw: object) -> Failure | None:
        """Read the annotation back; None for anything that is not one (people edit annotations)."""
        if not isinstance(raw, dict) or raw.get("cause") not in names.CAUSES:
            return None
        code = raw.get("code")
        if not (code is None or (isinstance(code, int) and not isinstance(code, bool))):
            return None
        return cls(raw["cause"], code, str(raw.get("pod", "")), str(raw.get("message", "")))


def pod_failures(pod: Mapping[str, Any]) -> tuple[Failure, ...]:
    """All failures a pod's status still tells of: how it ended, and how its container ended the last time."""
    return tuple(_pod_level(pod)) + tuple(_container_level(pod))


def worst(failures: Iterable[Failure]) -> Failure | None:
    """The failure that explains the others; None if there is none."""
    ranked = sorted(failures, key=lambda failure: (_PRIORITY.index(failure.cause), failure.pod))
    return ranked[0] if ranked else None


def _pod_level(pod: Mapping[str, Any]) -> Iterator[Failure]:
    name = pod["metadata"]["name"]
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        reason = condition.get("reason", "")
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True" and reason in _POD_REASONS:
            yield Failure(_POD_REASONS[reason], None, name, _sentence(name, reason, condition.get("message")))
    reason = status.get("reason", "")
    if reason in _POD_REASONS:
        message = str(status.get("message", ""))
        evicted_for_memory = reason == "Evicted" and "memory" in message.lower()
        cause = names.CAUSE_OUT_OF_MEMORY if evicted_for_memory else _POD_REASONS[reason]
        yield Failure(cause, None, name, _sentence(name, reason, message))


def _container_level(pod: Mapping[str, Any]) -> Iterator[Failure]:
    name = pod["metadata"]["name"]
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        if container.get("name") != names.CONTAINER:
            continue
        for field in ("state", "lastState"):
            terminated = (container.get(field) or {}).get("terminated")
            if terminated and terminated.get("exitCode") != 0:
                yield _terminated(name, terminated)


def _terminated(pod: str, terminated: Mapping[str, Any]) -> Failure:
    code = int(terminated.get("exitCode", 1))
    reason = str(terminated.get("reason", ""))
    told = _told_by_launcher(terminated.get("message"))
    cause = told.get("cause") or _CODE_CAUSES.get(code, names.CAUSE_INFRASTRUCTURE)
    if reason == "OOMKilled":
        cause = names.CAUSE_OUT_OF_MEMORY
    what = f"exit code {code}" + (f" ({reason})" if reason not in ("", "Error") else "")
    return Failure(cause, code, pod, _sentence(pod, what, told.get("message") or terminated.get("message")))


def _told_by_launcher(message: object) -> dict[str, str]:
    """Cause and last words from the launcher's termination message; empty if the message is something else.

    The exit code alone cannot say it: 75 stands for a preemption as well as for a lost peer or a death by signal.
    """
    try:
        raw = json.loads(str(message or ""))
    except ValueError:
        return {}
    if not isinstance(raw, dict) or raw.get("cause") not in names.CAUSES:
        return {}
    return {"cause": raw["cause"], "message": str(raw.get("message", ""))}


def _sentence(pod: str, what: str, detail: object) -> str:
    """One line that names pod, reason and the last words of its log, without credentials."""
    text = " ".join(redact(str(detail or "")).split())
    return f"{pod}: {what}" + (f": {text[-_MESSAGE_CHARACTERS:]}" if text else "")

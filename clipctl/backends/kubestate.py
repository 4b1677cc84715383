"""Reads the state of a run out of its Kubernetes objects; pure functions on dicts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from clipctl.backends.base import PodStatus, RunStatus, RunSummary
from clipctl.contract import names

Object = dict[str, Any]

_WAITING_IS_NORMAL = frozenset({"ContainerCreating", "PodInitializing", ""})
_STATE_OF_CONDITION = {
    "Created": names.STATE_PENDING,
    "Running": names.STATE_RUNNING,
    "Restarting": names.STATE_RESTARTING,
    "Succeeded": names.STATE_SUCCEEDED,
    "Failed": names.STATE_FAILED,
}


def attempt_of(job: Object) -> int:
    """Attempt number of a PyTorchJob; 0 if the label is missing or damaged."""
    label = str(_labels(job).get(names.LABEL_ATTEMPT, ""))
    return int(label) if label.isascii() and label.isdigit() else 0


def newest_attempt(jobs: Iterable[Object]) -> Object | None:
    """The PyTorchJob of the newest attempt; it alone carries the run's state."""
    return max(jobs, key=attempt_of, default=None)


def digest_of(job: Object | None) -> str:
    """Digest of the spec a PyTorchJob was made from; empty if it does not say."""
    return "" if job is None else str(_annotations(job).get(names.ANNOTATION_SPEC_DIGEST, ""))


def state_of(job: Object) -> str:
    """State of a run by the PyTorchJob of its newest attempt.

    training-operator's conditions are the truth about the job, the operator's annotation about the run: a failed job
    may be about to be tried again, and a finished run never changes again.
    """
    annotated = str(_annotations(job).get(names.ANNOTATION_STATE, ""))
    if annotated in names.TERMINAL_STATES:
        return annotated
    conditions = {c["type"] for c in job.get("status", {}).get("conditions") or () if c.get("status") == "True"}
    if "Succeeded" in conditions:
        return names.STATE_SUCCEEDED
    if is_stopped(job):
        return names.STATE_STOPPED
    if "Failed" in conditions:
        return annotated if annotated == names.STATE_RESTARTING else names.STATE_FAILED
    if job.get("spec", {}).get("runPolicy", {}).get("suspend"):
        return names.STATE_PENDING
    for condition in ("Restarting", "Running", "Created"):
        if condition in conditions:
            return _STATE_OF_CONDITION[condition]
    return names.STATE_PENDING


def is_stopped(job: Object) -> bool:
    """Whether the user stopped the run (rather than a queue suspending it)."""
    suspended = bool(job.get("spec", {}).get("runPolicy", {}).get("suspend"))
    return suspended and bool(_annotations(job).get(names.ANNOTATION_STOPPED_BY))


def run_status(name: str, job: Object, pods: Sequence[Object], events: Sequence[Object], now: float) -> RunStatus:
    """Everything the API server says about a run.

    Args:
        name: name of the run.
        job: PyTorchJob of the newest attempt.
        pods: the run's worker pods.
        events: events of the job and of its pods.
        now: current Unix time, for ages.
    """
    annotations = _annotations(job)
    state = state_of(job)
    reason, message = _explain(job, state, pods, events)
    finished = annotations.get(names.ANNOTATION_FINISHED_AT) or job.get("status", {}).get("completionTime")
    return RunStatus(
        name=name,
        backend="kubernetes",
        state=state,
        location=f"{job['metadata'].get('namespace', '')}/{job['metadata']['name']}",
        run_root=str(annotations.get(names.ANNOTATION_CHECKPOINT_ROOT, "")),
        attempt=attempt_of(job),
        reason=reason,
        message=message,
        spec_digest=str(annotations.get(names.ANNOTATION_SPEC_DIGEST, "")),
        created_at=timestamp(annotations.get(names.ANNOTATION_STARTED_AT)) or _created(job),
        finished_at=timestamp(finished),
        exit_code=_exit_code(annotations.get(names.ANNOTATION_LAST_FAILURE)) if state == names.STATE_FAILED else None,
        resume_from=str(annotations.get(names.ANNOTATION_RESUME_FROM) or "") or None,
        rejected=_strings(annotations.get(names.ANNOTATION_REJECTED)),
        attempt_causes=_strings(annotations.get(names.ANNOTATION_HISTORY)),
        pods=tuple(pod_status(pod, now) for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))),
        storage_env=_storage_env(job),
    )


def summary(name: str, job: Object) -> RunSummary:
    """One line of the list of runs."""
    metadata = job["metadata"]
    location = f"{metadata.get('namespace', '')}/{metadata['name']}"
    created = timestamp(_annotations(job).get(names.ANNOTATION_STARTED_AT)) or _created(job)
    return RunSummary(name, "kubernetes", state_of(job), attempt_of(job), created, location)


def pod_status(pod: Object, now: float) -> PodStatus:
    """One line of the table of workers."""
    status = pod.get("status", {})
    created = _created(pod)
    containers = status.get("containerStatuses") or ()
    phase = "Terminating" if pod["metadata"].get("deletionTimestamp") else str(status.get("phase", "Unknown"))
    return PodStatus(
        name=str(pod["metadata"]["name"]),
        phase=phase,
        reason=_pod_problem(pod)[0],
        restarts=sum(int(c.get("restartCount", 0)) for c in containers),
        node=str(pod.get("spec", {}).get("nodeName") or ""),
        age_seconds=None if created is None else max(0.0, now - created),
    )


def timestamp(text: Any) -> float | None:
    """Unix time of an RFC 3339 timestamp; None if it is absent or damaged."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def _explain(job: Object, state: str, pods: Sequence[Object], events: Sequence[Object]) -> tuple[str, str]:
    """Reason and message: the operator's words if it has any, else what keeps the workers from running."""
    annotations = _annotations(job)
    if state == names.STATE_STOPPED:
        return "StoppedByUser", "submit the same file again to resume it"
    waiting = "" if state in names.TERMINAL_STATES else _waiting(job, pods, events)
    if waiting and state in (names.STATE_PENDING, names.STATE_RESTARTING):
        reason, _, message = waiting.partition(": ")
        return reason, message
    reason = str(annotations.get(names.ANNOTATION_REASON, ""))
    message = str(annotations.get(names.ANNOTATION_MESSAGE, ""))
    if reason or message:
        return reason, message
    conditions = [c for c in job.get("status", {}).get("conditions") or () if c.get("status") == "True"]
    if state in names.TERMINAL_STATES and conditions:
        return str(conditions[-1].get("reason", "")), str(conditions[-1].get("message", ""))
    return "", ""


def _waiting(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> str:
    """`Reason: message` of the first thing that keeps the run from running; empty if nothing does."""
    for pod in pods:
        reason, message = _pod_problem(pod)
        if reason:
            return f"{reason}: {message or pod['metadata']['name']}"
    queue = _labels(job).get(names.LABEL_QUEUE)
    if job.get("spec", {}).get("runPolicy", {}).get("suspend"):
        where = f" {queue}" if queue else ""
        return f"Queued: waiting for admission by the queue{where}"
    warnings = [event for event in events if event.get("type") == "Warning"]
    if warnings and not any(_is_running(pod) for pod in pods):
        newest = max(warnings, key=_event_time)
        return f"{newest.get('reason', 'Warning')}: {newest.get('message', '')}"
    if not job.get("status", {}).get("conditions"):
        return "NotPickedUp: training-operator has not seen the job yet; `clipctl doctor` checks whether it runs"
    return ""


def _pod_problem(pod: Object) -> tuple[str, str]:
    """Why a pod is not running, as (reason, message)."""
    status = pod.get("status", {})
    if status.get("phase") == "Succeeded":
        return "", ""
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if str(waiting.get("reason", "")) not in _WAITING_IS_NORMAL:
            return str(waiting["reason"]), str(waiting.get("message", ""))
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended and ended.get("exitCode"):
            return str(ended.get("reason", "Error")), f"exit code {ended['exitCode']}"
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason", "Unschedulable")), str(condition.get("message", ""))
    if status.get("phase") == "Failed":
        return str(status.get("reason", "Failed")), str(status.get("message", ""))
    return "", ""


def _is_running(pod: Object) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Running")


def _event_time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _storage_env(job: Object) -> dict[str, str]:
    """Plain `AWS_*` variables of the workers: the CLI needs the same endpoint to look into the run's storage."""
    worker = job.get("spec", {}).get("pytorchReplicaSpecs", {}).get("Worker", {})
    containers: list[Object] = worker.get("template", {}).get("spec", {}).get("containers") or []
    pairs = ((str(e.get("name", "")), e.get("value")) for container in containers for e in container.get("env") or ())
    return {name: str(value) for name, value in pairs if name.startswith("AWS_") and value is not None}


def _strings(text: Any) -> tuple[str, ...]:
    """The items of a JSON list of strings; nothing for anything else."""
    try:
        items = json.loads(text or "[]")
    except (TypeError, ValueError):
        return ()
    return tuple(str(item) for item in items) if isinstance(items, list) else ()


def _exit_code(last_failure: Any) -> int | None:
    """The exit code in the operator's record of the newest failure."""
    try:
        code = json.loads(last_failure or "{}").get("code")
    except (TypeError, ValueError, AttributeError):
        return None
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _created(item: Object) -> float | None:
    return timestamp(item["metadata"].get("creationTimestamp"))


def _labels(item: Object) -> dict[str, Any]:
    return item["metadata"].get("labels") or {}


def _annotations(item: Object) -> dict[str, Any]:
    return item["metadata"].get("annotations") or {}

"""One attempt, a PyTorchJob, as the policies see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clip_operator.api import Object
from clip_operator.causes import Failure
from clip_operator.edited import attempt_of, parse_json
from clip_operator.moments import parse_time
from clip_operator.retry_policy import RetryPolicy
from clipctl.contract import names


@dataclass(frozen=True)
class JobView:
    """One attempt: a PyTorchJob and what its annotations and conditions say."""

    name: str
    uid: str
    resource_version: str
    attempt: int
    created_at: float
    annotations: Mapping[str, str]
    suspended: bool
    queued: bool
    deleting: bool
    deadline_forced: bool
    conditions: Mapping[str, float | None]
    completed_at: float | None
    workers_wanted: int
    grace_seconds: float
    raw: Object = field(repr=False, compare=False, default_factory=dict)

    @property
    def succeeded(self) -> bool:
        """training-operator says it is done."""
        return "Succeeded" in self.conditions

    @property
    def failed(self) -> bool:
        """training-operator has given it up."""
        return "Failed" in self.conditions

    @property
    def over(self) -> bool:
        """Whether nothing of it will run any more."""
        return self.succeeded or self.failed

    @property
    def ended_at(self) -> float:
        """When it ended; its creation if nothing says."""
        stamps = [self.conditions.get(name) for name in ("Succeeded", "Failed")]
        return self.completed_at or next((at for at in stamps if at), None) or self.created_at

    @property
    def state(self) -> str:
        """The state the operator last wrote; empty if none."""
        state = self.annotations.get(names.ANNOTATION_STATE, "")
        return state if state in names.STATES else ""

    @property
    def history(self) -> tuple[str, ...]:
        """Causes of the attempts before this one, oldest first."""
        raw = parse_json(self.annotations.get(names.ANNOTATION_HISTORY))
        return tuple(c for c in raw if c in names.CAUSES) if isinstance(raw, list) else ()

    @property
    def last_failure(self) -> Failure | None:
        """The newest failure the operator has recorded."""
        return Failure.from_json(parse_json(self.annotations.get(names.ANNOTATION_LAST_FAILURE)))

    @property
    def retry(self) -> RetryPolicy:
        """The run's retry policy."""
        return RetryPolicy.parse(self.annotations.get(names.ANNOTATION_RETRY))

    @classmethod
    def parse(cls, raw: Object) -> JobView:
        """Summarise a PyTorchJob."""
        metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
        policy = spec.get("runPolicy") or {}
        worker = (spec.get("pytorchReplicaSpecs") or {}).get("Worker") or {}
        pod_spec = (worker.get("template") or {}).get("spec") or {}
        true = [c for c in status.get("conditions") or () if c.get("status") == "True"]
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            resource_version=metadata.get("resourceVersion", ""),
            attempt=attempt_of(metadata),
            created_at=parse_time(metadata.get("creationTimestamp")) or 0.0,
            annotations=metadata.get("annotations") or {},
            suspended=bool(policy.get("suspend")),
            queued=names.LABEL_QUEUE in (metadata.get("labels") or {}),
            deleting="deletionTimestamp" in metadata,
            deadline_forced=policy.get("activeDeadlineSeconds") == 0,
            conditions={c.get("type", ""): parse_time(c.get("lastTransitionTime")) for c in true},
            completed_at=parse_time(status.get("completionTime")),
            workers_wanted=int(worker.get("replicas") or 1),
            grace_seconds=float(pod_spec.get("terminationGracePeriodSeconds") or 30),
            raw=raw,
        )

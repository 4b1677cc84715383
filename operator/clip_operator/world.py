"""An immutable snapshot of one run: everything the policies may look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clip_operator.api import Object
from clip_operator.job_view import JobView
from clip_operator.moments import parse_time
from clip_operator.pod_view import PodView
from clipctl.contract import names


@dataclass(frozen=True)
class CheckpointSummary:
    """What storage holds: the newest verified checkpoint and the newer ones that are damaged.

    `problem` says why storage could not be asked; `all_corrupt` that nothing in it can be trusted.
    """

    resume_from: str = ""
    step: int | None = None
    rejected: tuple[str, ...] = ()
    problem: str = ""
    all_corrupt: bool = False


@dataclass(frozen=True)
class World:
    """Everything the policies may look at. `rendezvous_replicas` is None if there is no rendezvous Deployment."""

    namespace: str
    run: str
    jobs: tuple[JobView, ...]
    pods: tuple[PodView, ...] = ()
    rendezvous_replicas: int | None = None
    checkpoints: CheckpointSummary | None = None

    @classmethod
    def build(
        cls,
        namespace: str,
        run: str,
        jobs: Iterable[Object],
        pods: Iterable[PodView] = (),
        rendezvous_replicas: int | None = None,
    ) -> World:
        """Assemble a snapshot; jobs are put in order of their attempts."""
        views = sorted((JobView.parse(raw) for raw in jobs), key=lambda job: (job.attempt, job.created_at))
        return cls(namespace, run, tuple(views), tuple(pods), rendezvous_replicas)

    @property
    def newest(self) -> JobView:
        """The attempt that counts."""
        return self.jobs[-1]

    @property
    def first_created_at(self) -> float:
        """When the run was first submitted: recorded in an annotation, because old attempts are deleted."""
        recorded = parse_time(self.newest.annotations.get(names.ANNOTATION_STARTED_AT))
        oldest = min(job.created_at for job in self.jobs)
        return min(recorded, oldest) if recorded is not None else oldest

    def pods_of(self, attempt: int) -> tuple[PodView, ...]:
        """The pods of one attempt, departed ones included."""
        return tuple(pod for pod in self.pods if pod.attempt == attempt)

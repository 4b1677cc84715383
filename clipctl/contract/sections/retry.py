"""When to try again and when to give up."""

from __future__ import annotations

from clipctl.contract.sections.base import NonNegativeInt, PositiveInt, Section


class AttemptBudget(Section):
    """How many further attempts each kind of failure may cost. User errors never get one."""

    out_of_memory: NonNegativeInt = 1
    """The kernel killed a worker. Default 1: the same step will most likely fail again."""

    preemption: NonNegativeInt = 1000
    """The scheduler or the cloud took a node. Default 1000: not the run's fault."""

    node_lost: NonNegativeInt = 100
    """A node stopped answering. Default 100."""

    hang: NonNegativeInt = 5
    """The watchdog killed a rank without progress. Default 5."""

    infrastructure: NonNegativeInt = 10
    """Storage, network or an unknown exit. Default 10."""


class RetrySection(Section):
    """When to try again and when to give up; the operator enforces all of it."""

    attempts: AttemptBudget = AttemptBudget()
    """Budget of new attempts by cause."""

    restarts_in_place: NonNegativeInt = 10
    """Restarts of the worker processes inside a pod, and of its container, before the attempt counts as failed.
    Default 10."""

    backoff_seconds: NonNegativeInt = 10
    """Wait before a new attempt; doubles with each one up to 5 minutes. Default 10."""

    deadline_seconds: PositiveInt | None = None
    """Wall-clock seconds from the first submission after which the run is failed. Default: none."""

    ttl_seconds: NonNegativeInt | None = None
    """Seconds after which a finished run is deleted from the cluster (never from storage). Default: kept."""

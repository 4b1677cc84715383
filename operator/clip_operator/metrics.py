"""Prometheus metrics: a few counters of the operator itself, and one sample set per run.

What is said about runs is computed from the last snapshot when Prometheus asks, so it survives restarts and vanishes
with the run; labels are bounded to namespace, run and the fixed sets of states and causes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clip_operator.checkpoints import StorageProgress
from clip_operator.watching import RunKey
from clip_operator.world import CheckpointSummary, World
from clipctl.contract import metric_names as m
from clipctl.contract import names


@dataclass(frozen=True)
class RunSample:
    """What is exported about one run."""

    state: str
    attempt: int
    causes: tuple[str, ...]
    workers: int
    workers_wanted: int
    pod_restarts: int
    started_at: float
    verified_step: int | None = None
    rejected: int = 0
    storage: StorageProgress = field(default_factory=StorageProgress)

    @classmethod
    def of(cls, world: World, storage: StorageProgress, verified: CheckpointSummary | None) -> RunSample:
        """Summarise a snapshot."""
        job = world.newest
        pods = [pod for pod in world.pods_of(job.attempt) if not pod.gone]
        failure = job.last_failure if job.state == names.STATE_FAILED else None
        return cls(
            state=job.state or names.STATE_PENDING,
            attempt=job.attempt,
            causes=(*job.history, *([failure.cause] if failure else [])),
            workers=sum(pod.phase == "Running" for pod in pods),
            workers_wanted=job.workers_wanted,
            pod_restarts=sum(pod.restarts for pod in pods),
            started_at=world.first_created_at,
            verified_step=verified.step if verified else None,
            rejected=len(verified.rejected) if verified else 0,
            storage=storage,
        )


class RunCollector(Collector):
    """Exports the newest `RunSample` of each run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: dict[RunKey, RunSample] = {}

    def put(self, key: RunKey, sample: RunSample) -> None:
        """Replace what is known of a run."""
        with self._lock:
            self._samples[key] = sample

    def remove(self, key: RunKey) -> None:
        """Forget a run that no longer exists."""
        with self._lock:
            self._samples.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client on each scrape."""
        with self._lock:
            samples = list(self._samples.items())
        yield _states(samples)
        yield _attempts(samples)
        for metric, read in _GAUGES:
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for key, sample in samples:
                value = read(sample)
                if value is not None:
                    family.add_metric(key, float(value))
            yield family


_GAUGES: tuple[tuple[m.Metric, Callable[[RunSample], float | None]], ...] = (
    (m.RUN_ATTEMPT, lambda s: s.attempt),
    (m.RUN_WORKERS, lambda s: s.workers),
    (m.RUN_WORKERS_WANTED, lambda s: s.workers_wanted),
    (m.RUN_POD_RESTARTS, lambda s: s.pod_restarts),
    (m.RUN_AGE, lambda s: s.started_at),
    (m.RUN_VERIFIED_STEP, lambda s: s.verified_step),
    (m.RUN_REJECTED, lambda s: s.rejected),
    (m.RUN_COMMITTED_STEP, lambda s: s.storage.committed_step),
    (m.RUN_GOODPUT, lambda s: s.storage.goodput),
    (m.RUN_ETA, lambda s: s.storage.eta_seconds),
)


def _states(samples: list[tuple[RunKey, RunSample]]) -> Metric:
    family = GaugeMetricFamily(m.RUN_STATE.name, m.RUN_STATE.help, labels=m.RUN_STATE.labels)
    for key, sample in samples:
        for state in names.STATES:
            family.add_metric((*key, state), float(sample.state == state))
    return family


def _attempts(samples: list[tuple[RunKey, RunSample]]) -> Metric:
    metric = m.RUN_ATTEMPTS
    family = CounterMetricFamily(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
    for key, sample in samples:
        for cause in names.CAUSES:
            family.add_metric((*key, cause), float(sample.causes.count(cause)))
    return family


class OperatorMetrics:
    """The registry and the operator's own metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.runs = RunCollector()
        self.registry.register(self.runs)
        self.leader = Gauge(m.OPERATOR_LEADER.name, m.OPERATOR_LEADER.help, registry=self.registry)
        self.queue_depth = Gauge(m.OPERATOR_QUEUE_DEPTH.name, m.OPERATOR_QUEUE_DEPTH.help, registry=self.registry)
        self.reconcile_seconds = Histogram(
            m.OPERATOR_RECONCILE_SECONDS.name, m.OPERATOR_RECONCILE_SECONDS.help, registry=self.registry
        )
        self.reconcile_errors = _counter(m.OPERATOR_RECONCILE_ERRORS, self.registry)
        self.watch_restarts = _counter(m.OPERATOR_WATCH_RESTARTS, self.registry)


def _counter(metric: m.Metric, registry: CollectorRegistry) -> Counter:
    return Counter(metric.name.removesuffix("_total"), metric.help, metric.labels, registry=registry)

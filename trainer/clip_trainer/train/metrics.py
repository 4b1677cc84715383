"""Prometheus metrics of one rank, on `metrics.port` + local rank."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from clip_trainer.train.step import StepResult
from clipctl.contract import metric_names as names
from clipctl.contract.metric_names import Metric

_PORT_TRIES = 16
_SECONDS_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_KINDS: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


def _build(metric: Metric, registry: CollectorRegistry) -> Any:
    extra = {"buckets": _SECONDS_BUCKETS} if metric.kind == "histogram" else {}
    return _KINDS[metric.kind](metric.name, metric.help, metric.labels, registry=registry, **extra)


@dataclass
class TrainerMetrics:
    """All trainer metrics of `clipctl.contract.metric_names`, in a registry of their own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self._metrics = {metric: _build(metric, self.registry) for metric in names.TRAINER_METRICS}

    def __getitem__(self, metric: Metric) -> Any:
        """The prometheus object of a metric."""
        return self._metrics[metric]

    def serve(self, port: int, stride: int) -> int:
        """Serve on `port`; on a host that several pods share, on the next free one in steps of `stride`.

        Returns:
            The port, or 0 if none was free; training goes on without metrics then.
        """
        for candidate in range(port, min(port + stride * _PORT_TRIES, 65536), stride):
            try:
                start_http_server(candidate, registry=self.registry)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return candidate
        return 0

    def observe_step(self, result: StepResult, *, step: int, samples: int, rate: float, learning_rate: float) -> None:
        """Record one optimiser step."""
        self[names.TRAIN_STEP].set(step)
        self[names.TRAIN_LOSS].set(result.loss)
        for term, value in result.losses.items():
            self[names.TRAIN_LOSS_TERM].labels(term).set(value)
        self[names.TRAIN_LEARNING_RATE].set(learning_rate)
        self[names.TRAIN_GRADIENT_NORM].set(result.gradient_norm)
        self[names.TRAIN_SAMPLES].inc(samples)
        self[names.TRAIN_RATE].set(rate)
        for phase, seconds in result.seconds.items():
            self[names.TRAIN_STEP_SECONDS].labels(phase).observe(seconds)

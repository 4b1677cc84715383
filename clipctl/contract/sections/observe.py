"""Metrics and experiment logs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from clipctl.contract.sections.base import PositiveInt, Section


class MetricsSection(Section):
    """Prometheus metrics of the trainer."""

    port: Annotated[int, Field(ge=1024, le=65535)] = 9401
    """Port of local rank 0; rank i of a pod uses port + i. Default 9401."""

    pod_monitor: bool = False
    """Render a PodMonitor (needs the Prometheus operator's CRDs). Default false."""


class WandbSection(Section):
    """Logs to Weights & Biases (needs the package wandb, and WANDB_API_KEY from a Secret)."""

    project: Annotated[str, StringConstraints(min_length=1, max_length=128)] = "open-clip"
    """Project. Default `open-clip`, OpenCLIP's."""

    entity: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """Team or user. Default: the account's."""

    notes: Annotated[str, StringConstraints(max_length=10_000)] = ""
    """Notes of the run."""

    mode: Literal["online", "offline"] = "online"
    """`offline` writes to disk only, for `wandb sync` later. Default `online`."""


class LogSection(Section):
    """Experiment logs in OpenCLIP's tag names, beside the event log that is always written."""

    every_steps: PositiveInt = 100
    """Optimiser steps between entries. Default 100, OpenCLIP's."""

    tensorboard: bool = False
    """Write TensorBoard event files below `<run>/tensorboard/` (needs the package tensorboard). Default false."""

    wandb: WandbSection | None = None
    """Log to Weights & Biases. Default: no."""

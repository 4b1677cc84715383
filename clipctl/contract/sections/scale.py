"""Pods, devices and placement."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from clipctl.contract.sections.base import DnsLabel, NonNegativeInt, Quantity, Section


class NodesSection(Section):
    """How many worker pods the run may have."""

    min: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Train on with this many if there are no more. Default 1."""

    max: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Worker pods to ask for. Default 1."""

    @model_validator(mode="after")
    def _ordered(self) -> NodesSection:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is greater than max ({self.max})")
        return self


class ResourcesSection(Section):
    """What one worker pod asks for; requests equal limits, so pods get the Guaranteed quality of service."""

    cpu: Quantity = "4"
    """CPU cores. Default 4."""

    memory: Quantity = "16Gi"
    """Memory, the shared-memory volume included. Default 16Gi."""

    gpu: NonNegativeInt = 0
    """GPUs (`nvidia.com/gpu`). Default 0, a CPU run; otherwise it must equal `scale.devices_per_node`."""

    shm: Quantity = "1Gi"
    """Size of /dev/shm. Default 1Gi; Kubernetes' own 64 MiB is too small for NCCL."""


class TolerationSection(Section):
    """A Kubernetes toleration."""

    key: str | None = None
    """Taint key; omitted with operator Exists: every taint."""

    operator: Literal["Equal", "Exists"] = "Equal"
    """How `value` is compared."""

    value: str | None = None
    """Taint value."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Which effect is tolerated; omitted: all."""


class VolumeSection(Section):
    """A PersistentVolumeClaim mounted into every worker."""

    claim: DnsLabel
    """Name of the PersistentVolumeClaim."""

    mount: Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f]*$", max_length=512)]
    """Absolute path it is mounted at."""

    read_only: bool = True
    """Mount read-only. Default true: data sets are only read."""


class ScaleSection(Section):
    """Pods, devices and placement."""

    nodes: NodesSection = NodesSection()
    """Worker pods, as a range: training goes on with fewer when some are lost, and grows again when they are back."""

    devices_per_node: Annotated[int, Field(ge=1, le=64)] = 1
    """Ranks per pod; one per GPU, or CPU processes. Default 1."""

    resources: ResourcesSection = ResourcesSection()
    """Requests and limits of one worker pod."""

    grace_seconds: Annotated[int, Field(ge=5, le=3600)] = 60
    """Time a pod gets between SIGTERM and SIGKILL to write its checkpoint. Default 60."""

    queue: DnsLabel | None = None
    """Kueue LocalQueue to submit to. Default: none."""

    priority_class: DnsLabel | None = None
    """PriorityClass of the workers. Default: the cluster's."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    """Node labels the workers need."""

    tolerations: Annotated[tuple[TolerationSection, ...], Field(strict=False)] = ()
    """Taints the workers tolerate."""

    volumes: Annotated[tuple[VolumeSection, ...], Field(strict=False)] = ()
    """PersistentVolumeClaims to mount."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When to pull the image. Default IfNotPresent."""

    image_pull_secrets: Annotated[tuple[DnsLabel, ...], Field(strict=False)] = ()
    """Names of image pull secrets."""

    service_account: DnsLabel | None = None
    """Existing ServiceAccount, for example one bound to a cloud role. Default: one of the run's own, without any
    rights."""

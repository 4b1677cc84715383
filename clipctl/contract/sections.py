"""The sections of run.yaml. Every field's docstring gives its meaning, unit, default and the reason for the default.

JSON Schema, the chart's values.schema.json and the reference page are generated from these classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from clipctl.contract.names import RESERVED_ENV, RESERVED_ENV_PREFIXES
from clipctl.contract.redact import is_secret_name

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""A Kubernetes quantity such as `500m`, `4` or `16Gi` (a string, so that YAML cannot change it)."""

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
Location = Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[^\x00-\x1f]+$")]
"""A path, or a URL without credentials in it."""

PositiveInt = Annotated[int, Field(ge=1, le=2**53)]
NonNegativeInt = Annotated[int, Field(ge=0, le=2**53)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Section(BaseModel):
    """Base of all sections: immutable, strict about types, no unknown fields, documented by attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class ModelSection(Section):
    """Which model to train, and in which precision."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """Model name, as `ViT-B-32`. Names that OpenCLIP has mean the same architecture and the same weight layout."""

    precision: Literal["fp32", "amp_bf16"] = "amp_bf16"
    """Arithmetic of the forward and backward pass. Weights and optimiser state are always fp32. Default `amp_bf16`:
    bf16 autocast is about 1.7 times faster than fp32 on bf16-capable CPUs and GPUs and needs no loss scaling."""


class DataSection(Section):
    """Where the training samples are and in which order they are read."""

    train: Location
    """Shards with an index: a directory or URL prefix that holds `index.json`, a brace pattern such as
    `s3://bucket/shard-{000000..000099}.tar`, or one `.tar`. On Kubernetes it must be a URL or an absolute path of a
    mounted volume."""

    lanes: PositiveInt | None = None
    """Number of virtual lanes the sample order is cut into; must divide `train.global_batch` and be at least the
    number of ranks. Default: the largest divisor of the global batch up to max(64, ranks). Part of the run's
    identity: changing it changes the sample order."""

    shuffle_block: PositiveInt = 1024
    """Samples that are shuffled among each other inside a lane, on top of the shuffle of whole shards. Default 1024:
    well mixed, while reads inside a shard stay close together."""

    threads: PositiveInt = 2
    """Decoder threads per rank. Default 2; decoding releases the GIL, so threads scale to the cores of the pod."""

    prefetch_batches: PositiveInt = 2
    """Batches decoded ahead per rank. Default 2: hides one slow read without holding much memory."""

    max_pixels: PositiveInt = 64_000_000
    """Images with more pixels are replaced before they are decoded. Default 64 million: above it lie decompression
    bombs."""

    max_replaced: Fraction = 0.01
    """Share of samples that may be undecodable before the run stops with exit code 65. Default 0.01: web data always
    has some; more means that something is wrong with the data set."""


class TrainSection(Section):
    """Optimiser, schedule and batch. The global batch is a property of the run, never of the number of workers."""

    global_batch: PositiveInt
    """Samples per optimiser step over all ranks. The contrastive loss sees all of them."""

    micro_batch: PositiveInt = 256
    """Samples a rank puts through the towers at once; a memory knob that never changes results. Default 256."""

    steps: PositiveInt | None = None
    """Optimiser steps to train for. Give this or `epochs`."""

    epochs: PositiveFloat | None = None
    """Passes over the data to train for. Give this or `steps`."""

    learning_rate: PositiveFloat = 5e-4
    """Peak learning rate. Default 5e-4, OpenCLIP's for ViT-B models."""

    warmup_steps: NonNegativeInt = 2000
    """Steps of linear warm-up from zero. Default 2000."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: cosine decay to zero at the last step (default), or constant."""

    weight_decay: NonNegativeFloat = 0.2
    """Decoupled weight decay of matrices; biases, norms and logit_scale are exempt. Default 0.2."""

    beta1: Fraction = 0.9
    """AdamW's first moment decay. Default 0.9."""

    beta2: Fraction = 0.98
    """AdamW's second moment decay. Default 0.98, OpenCLIP's for ViT models."""

    eps: PositiveFloat = 1e-6
    """AdamW's denominator term. Default 1e-6, OpenCLIP's for ViT models."""

    grad_clip_norm: PositiveFloat | None = None
    """Clip the global gradient norm to this. Default: no clipping."""

    seed: NonNegativeInt = 0
    """Seed of initialisation, sample order and augmentation. Default 0."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of train.steps and train.epochs")
        return self


class ZeroShotSection(Section):
    """Zero-shot classification on a labelled data set."""

    data: Location
    """Shards whose samples have a `cls` member (class number as text)."""

    classes: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    """Class names in the order of the class numbers."""

    templates: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("a photo of a {}.",)
    """Prompts with `{}` for the class name; the text embeddings are averaged over them."""

    @field_validator("templates")
    @classmethod
    def _has_placeholder(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if "{}" not in template:
                raise ValueError(f"template {template!r} has no {{}} for the class name")
        return templates


class RetrievalSection(Section):
    """Image-text retrieval on a held-out data set."""

    data: Location
    """Shards with images and captions; recall at 1, 5 and 10 is reported both ways."""


class EvalSection(Section):
    """What to measure on held-out data, at the end and on the way."""

    zero_shot: ZeroShotSection | None = None
    """Zero-shot classification; omitted: not run."""

    retrieval: RetrievalSection | None = None
    """Retrieval; omitted: not run."""

    every_steps: PositiveInt | None = None
    """Also evaluate every this many steps. Default: only at the end."""


class CheckpointSection(Section):
    """Where the run's state is kept. Resuming is automatic and uses verified checkpoints only."""

    path: Location
    """Directory or `s3://` URL; the run stores everything below `<path>/<name>`."""

    every_steps: PositiveInt = 1000
    """Steps between checkpoints. Default 1000. What a node loss costs is at most this many steps."""

    keep: Annotated[int, Field(ge=2, le=10_000)] = 3
    """Newest verified checkpoints to keep. At least 2, so that damage to the newest never costs the run. Default 3."""


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


class SecretRef(Section):
    """An environment variable taken from a Kubernetes Secret. Values never stand in run.yaml."""

    secret: DnsLabel
    """Name of the Secret."""

    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
    """Key in the Secret."""


class MetricsSection(Section):
    """Prometheus metrics of the trainer."""

    port: Annotated[int, Field(ge=1024, le=65535)] = 9401
    """Port of local rank 0; rank i of a pod uses port + i. Default 9401."""

    pod_monitor: bool = False
    """Render a PodMonitor (needs the Prometheus operator's CRDs). Default false."""


def check_environment(env: Mapping[str, str], secrets: Collection[str]) -> None:
    """Refuse variables that would hide a secret in plain text or override what clipctl itself sets.

    Args:
        env: plain variables.
        secrets: names of those taken from Kubernetes Secrets.

    Raises:
        ValueError: naming the variable.
    """
    for name in (*env, *secrets):
        if name in RESERVED_ENV or name.startswith(RESERVED_ENV_PREFIXES):
            raise ValueError(f"{name} is set by clipctl and cannot be overridden")
    for name in env:
        if is_secret_name(name) or name == "AWS_ACCESS_KEY_ID":
            raise ValueError(f"{name} looks like a credential: take it from a Secret with the `secrets` section")
        if name in secrets:
            raise ValueError(f"{name} stands in env and in secrets")

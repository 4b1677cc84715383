"""`RunSpec`: what run.yaml says, validated, frozen, with every default filled in.

It is the one document that CLI, chart, operator and trainer share. Unknown fields, wrong types and impossible
combinations are errors; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from clipctl.contract import layout
from clipctl.contract.digest import canonical_json, sha256_hex
from clipctl.contract.names import MAX_RUN_NAME
from clipctl.contract.sections import (
    CheckpointSection,
    DataSection,
    EnvName,
    EvalSection,
    HealthSection,
    LogSection,
    MetricsSection,
    ModelSection,
    RetrySection,
    ScaleSection,
    SecretRef,
    Section,
    TrainSection,
    check_environment,
)
from clipctl.contract.sections.sources import PIPE, SEPARATOR, SYNTHETIC

_PREFERRED_LANES = 64
SHARDED_OPTIMIZERS = ("adamw", "adam", "sgd")
"""The optimisers that `train.parallel` fsdp can shard."""

RunName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=MAX_RUN_NAME)]


class RunSpec(Section):
    """One training run."""

    version: Literal[1] = 1
    """Version of this format. Default 1."""

    name: RunName
    """Name of the run: a DNS label of at most 44 characters that starts with a letter. With `checkpoint.path` it
    identifies the run's state: the same name continues the same run."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\s]+$")] = "clipctl:latest"
    """Container image of the workers; pin a digest for anything that matters. Ignored by local runs."""

    model: ModelSection
    """The model."""

    data: DataSection
    """The training data."""

    train: TrainSection
    """Optimiser, schedule and batch."""

    checkpoint: CheckpointSection
    """Where the state is kept."""

    eval: EvalSection = EvalSection()
    """What to measure on held-out data."""

    scale: ScaleSection = ScaleSection()
    """Pods, devices and placement."""

    retry: RetrySection = RetrySection()
    """When to try again and when to give up."""

    health: HealthSection = HealthSection()
    """What the run watches of itself."""

    env: dict[EnvName, str] = Field(default_factory=dict)
    """Plain environment variables of the workers, for example `AWS_ENDPOINT_URL`. No secrets."""

    secrets: dict[EnvName, SecretRef] = Field(default_factory=dict)
    """Environment variables taken from Kubernetes Secrets."""

    metrics: MetricsSection = MetricsSection()
    """Prometheus metrics."""

    log: LogSection = LogSection()
    """Experiment logs."""

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        check_environment(self.env, self.secrets)
        _check_lanes(self)
        _check_devices(self)
        _check_locations(self)
        _check_sharding(self)
        return self

    @property
    def root(self) -> str:
        """URL or path below which the run stores everything."""
        return layout.run_root(self.checkpoint.path, self.name)

    def locations(self) -> dict[str, str]:
        """Every path or URL of the spec by the name of its field (tags of the registry are not locations)."""
        return {field: location for field, location in _locations(self) if location}

    @property
    def max_world(self) -> int:
        """Most ranks the run can have."""
        return self.scale.nodes.max * self.scale.devices_per_node

    def resolved(self) -> dict[str, Any]:
        """The spec as plain JSON values, every default filled in."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """sha256 over the resolved spec: equal if and only if the runs are configured alike."""
        return sha256_hex(canonical_json(self.resolved()))

    def training_digest(self, data_identity: str) -> str:
        """sha256 over what must not change when a run is resumed: model, data order and global batch.

        Args:
            data_identity: digest of the training samples; where they are stored may change, what they are may not.
        """
        identity = {
            "model": self.model.name,
            "data": data_identity,
            "lanes": lane_count(self.train.global_batch, self.max_world, self.data.lanes),
            "shuffle_block": self.data.shuffle_block,
            "global_batch": self.train.global_batch,
            "seed": self.train.seed,
            **_content(self.data),
        }
        return sha256_hex(canonical_json(identity))


def _content(data: DataSection) -> dict[str, Any]:
    """What else decides which samples and captions are shown; empty for runs that say nothing about it."""
    chosen: dict[str, Any] = {}
    if data.resample is not None:
        chosen["resample"] = data.resample.model_dump()
        chosen["weights"] = [source.weight for source in data.sources]
    if data.captions is not None:
        chosen["captions"] = data.captions
    return chosen


def lane_count(global_batch: int, max_world: int, lanes: int | None = None) -> int:
    """Number of virtual lanes of a run.

    Args:
        global_batch: samples per step; the lanes must divide it.
        max_world: most ranks the run can have; each owns at least one lane.
        lanes: the number wanted. None: the largest divisor of the batch that is at least `max_world` and at most
            max(64, max_world); if there is none, the smallest one above.

    Raises:
        ValueError: the batch is smaller than the largest world, or `lanes` does not fit.
    """
    if global_batch < max_world:
        raise ValueError(f"train.global_batch ({global_batch}) cannot be shared by {max_world} ranks: it is too small")
    if lanes is None:
        divisors = [d for d in range(max_world, global_batch + 1) if global_batch % d == 0]
        preferred = [d for d in divisors if d <= max(_PREFERRED_LANES, max_world)]
        return preferred[-1] if preferred else divisors[0]
    if global_batch % lanes:
        raise ValueError(f"data.lanes ({lanes}) does not divide train.global_batch ({global_batch})")
    if lanes < max_world:
        raise ValueError(f"data.lanes ({lanes}) is less than the number of ranks ({max_world})")
    return lanes


def _check_lanes(spec: RunSpec) -> None:
    lane_count(spec.train.global_batch, spec.max_world, spec.data.lanes)


def _check_devices(spec: RunSpec) -> None:
    gpus = spec.scale.resources.gpu
    if gpus not in (0, spec.scale.devices_per_node):
        raise ValueError(
            f"scale.resources.gpu ({gpus}) must be 0 or equal scale.devices_per_node ({spec.scale.devices_per_node})"
        )


def _check_locations(spec: RunSpec) -> None:
    for field, location in spec.locations().items():
        authority = location.partition("://")[2].partition("/")[0]
        if "@" in authority:
            raise ValueError(f"the URL of {field} carries credentials: take them from a Secret with `secrets`")


def _check_sharding(spec: RunSpec) -> None:
    """What `train.parallel` fsdp cannot do: whatever looks at a parameter as a whole, or rewrites the towers."""
    if spec.train.parallel != "fsdp":
        return
    if spec.train.optimizer not in SHARDED_OPTIMIZERS:
        allowed = ", ".join(SHARDED_OPTIMIZERS)
        raise ValueError(f"train.parallel fsdp needs an optimiser that works element by element: {allowed}")
    if spec.model.compile:
        raise ValueError("train.parallel fsdp and model.compile exclude each other: remove one of them")
    if spec.checkpoint.resume_from is not None:
        raise ValueError("checkpoint.resume_from needs train.parallel ddp: begin with that, then change to fsdp")


def _locations(spec: RunSpec) -> Iterator[tuple[str, str | None]]:
    yield from _data_locations(spec.data)
    yield "checkpoint.path", spec.checkpoint.path
    yield "checkpoint.resume_from", spec.checkpoint.resume_from
    yield "model.config", spec.model.config
    yield "model.pretrained", _path_or_url(spec.model.pretrained)
    if spec.train.loss.distill is not None:
        yield "train.loss.distill.pretrained", _path_or_url(spec.train.loss.distill.pretrained)
    if spec.eval.retrieval is not None:
        yield from _numbered("eval.retrieval.data", spec.eval.retrieval.data.split(SEPARATOR))
        if spec.eval.retrieval.columns is not None:
            yield "eval.retrieval.columns.root", spec.eval.retrieval.columns.root
    for name, section in spec.eval.classification_sets().items():
        yield from _numbered(f"eval.{name}.data", (section.data or "").split(SEPARATOR))
        yield f"eval.{name}.folder", section.folder
        yield f"eval.{name}.classes", _path_or_url(section.classes)
        yield f"eval.{name}.templates", _path_or_url(section.templates)


def _data_locations(data: DataSection) -> Iterator[tuple[str, str | None]]:
    yield from _numbered("data.train", [source.url for source in data.sources])
    if data.columns is not None:
        yield "data.columns.root", data.columns.root


def _numbered(field: str, urls: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Several sources of one field; commands and made-up samples are at no location."""
    for number, url in enumerate(urls):
        if not url.startswith((SYNTHETIC, PIPE)):
            yield (field if len(urls) == 1 else f"{field}.{number}"), url


def _path_or_url(value: object) -> str | None:
    """The value if it is written like a path or a URL; names such as tags have neither slash nor file ending."""
    named = isinstance(value, str) and "/" not in value and not value.endswith((".json", ".pt", ".safetensors"))
    return value if isinstance(value, str) and not named else None

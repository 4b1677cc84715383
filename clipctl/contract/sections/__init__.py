"""The sections of run.yaml, one file each.

Every field's docstring gives its meaning, unit, default and the reason for the default: JSON Schema, the chart's
values.schema.json and the reference page are generated from these classes.
"""

from __future__ import annotations

from clipctl.contract.sections.base import DnsLabel, EnvName, Location, Quantity, Section, quantity_bytes
from clipctl.contract.sections.checkpoint import CheckpointSection
from clipctl.contract.sections.data import AugmentSection, DataSection
from clipctl.contract.sections.environment import SecretRef, check_environment
from clipctl.contract.sections.evaluation import EvalSection, EverySection, RetrievalSection, ZeroShotSection
from clipctl.contract.sections.health import HealthSection
from clipctl.contract.sections.loss import DistillSection, LossSection
from clipctl.contract.sections.model import LockImageSection, LockTextSection, ModelSection, PreprocessSection
from clipctl.contract.sections.observe import LogSection, MetricsSection, WandbSection
from clipctl.contract.sections.optimizer import (
    EmaSection,
    GuardSection,
    LayerDecaySection,
    ParameterGroupSection,
    PatchDropoutPoint,
)
from clipctl.contract.sections.retry import AttemptBudget, RetrySection
from clipctl.contract.sections.scale import (
    NodesSection,
    ResourcesSection,
    ScaleSection,
    TolerationSection,
    VolumeSection,
)
from clipctl.contract.sections.sources import CacheSection, ColumnsSection, ResampleSection, SourceSection
from clipctl.contract.sections.train import TrainSection

__all__ = [
    "AttemptBudget",
    "AugmentSection",
    "CacheSection",
    "CheckpointSection",
    "ColumnsSection",
    "DataSection",
    "DistillSection",
    "DnsLabel",
    "EmaSection",
    "EnvName",
    "EvalSection",
    "EverySection",
    "GuardSection",
    "HealthSection",
    "LayerDecaySection",
    "Location",
    "LockImageSection",
    "LockTextSection",
    "LogSection",
    "LossSection",
    "MetricsSection",
    "ModelSection",
    "NodesSection",
    "ParameterGroupSection",
    "PatchDropoutPoint",
    "PreprocessSection",
    "Quantity",
    "ResampleSection",
    "ResourcesSection",
    "RetrievalSection",
    "RetrySection",
    "ScaleSection",
    "SecretRef",
    "Section",
    "SourceSection",
    "TolerationSection",
    "TrainSection",
    "VolumeSection",
    "WandbSection",
    "ZeroShotSection",
    "check_environment",
    "quantity_bytes",
]

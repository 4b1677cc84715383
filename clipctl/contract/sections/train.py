"""Batch, length, loss, optimiser and schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from clipctl.contract.sections.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)
from clipctl.contract.sections.loss import LossSection
from clipctl.contract.sections.optimizer import (
    DecayRule,
    EmaSection,
    Glob,
    GuardSection,
    LayerDecaySection,
    OptimizerOptions,
    ParameterGroupSection,
    PatchDropoutPoint,
)


class TrainSection(Section):
    """Optimiser, schedule and batch. The global batch is a property of the run, never of the number of workers."""

    global_batch: PositiveInt
    """Samples per optimiser step over all ranks. The contrastive loss sees all of them."""

    micro_batch: PositiveInt = 256
    """Samples a rank puts through the towers at once; a memory knob that never changes results. Default 256."""

    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How ranks share the model. `ddp` (default): each has all of it, and survives the loss of another; `fsdp`: each
    keeps its share of weights, gradients and optimiser state and fetches the rest when needed (torch's FSDP2), for
    models that do not fit otherwise; the loss of a rank restarts all from the newest checkpoint. Results are the same.
    fsdp needs native towers (ViT and CLIP's text transformer) and optimizer adamw, adam or sgd."""

    steps: PositiveInt | None = None
    """Optimiser steps to train for. Give this or `epochs`."""

    epochs: PositiveFloat | None = None
    """Passes over the data to train for. Give this or `steps`."""

    loss: LossSection = LossSection()
    """What to minimise."""

    learning_rate: PositiveFloat = 5e-4
    """Peak learning rate. Default 5e-4, OpenCLIP's for ViT-B models."""

    warmup_steps: NonNegativeInt = 2000
    """Steps of linear warm-up from zero. Default 2000."""

    schedule: Literal["cosine", "constant", "constant-cooldown", "wsd", "none"] = "cosine"
    """Learning rate after the warm-up. `cosine` (default): to zero at the last step; `constant`; `constant-cooldown`:
    constant, then down to `cooldown_end`; `wsd`: the same, falling with 1 - sqrt (arXiv 2405.18392); `none`: the peak
    from the first step on, without warm-up."""

    cooldown_steps: PositiveInt | None = None
    """Length of the fall of `constant-cooldown` and `wsd`, optimiser steps. Give this or `cooldown_epochs`."""

    cooldown_epochs: PositiveFloat | None = None
    """The same in epochs."""

    cooldown_end: NonNegativeFloat = 0.0
    """Learning rate at the end of the fall. Default 0."""

    cooldown_power: PositiveFloat = 1.0
    """`constant-cooldown`: 1 (default) falls in a line, 2 in a parabola."""

    optimizer: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_./-]+$", max_length=64)] = "adamw"
    """`adamw` (default), another optimiser of torch by its name in lower case (`sgd`, `nadam`, `adafactor`), `muon`
    (for the matrices of the blocks, AdamW for the rest), or `timm/<name>` (needs timm)."""

    optimizer_options: OptimizerOptions = Field(default_factory=dict)
    """Further arguments of the optimiser. Default: none."""

    weight_decay: NonNegativeFloat = 0.2
    """Weight decay of matrices, decoupled if the optimiser does so; biases, norms and logit_scale are exempt. Default
    0.2."""

    decay_rule: DecayRule = "openclip"
    """Which parameters decay. `openclip` (default): as OpenCLIP 3.3, all matrices, position embeddings included;
    `modern`: as its development version, without class and position embeddings. OpenCLIP 3.3 does the latter with
    optimisers of timm, and so do both rules."""

    no_decay: Annotated[tuple[Glob, ...], Field(strict=False)] = ()
    """Shell patterns of further parameters that do not decay."""

    layer_decay: LayerDecaySection = LayerDecaySection()
    """Smaller learning rates for earlier layers. Default: none."""

    parameter_groups: Annotated[tuple[ParameterGroupSection, ...], Field(strict=False)] = ()
    """Other settings for some parameters. Default: none."""

    beta1: Fraction | None = None
    """Decay of the first moment. Default 0.9."""

    beta2: Fraction | None = None
    """Decay of the second moment. Default as OpenCLIP: 0.98 for models with "vit" in their name, otherwise 0.999;
    optimisers of timm have their own defaults."""

    eps: PositiveFloat | None = None
    """Term in the denominator. Default as OpenCLIP: 1e-6 for models with "vit" in their name, otherwise 1e-8."""

    momentum: Fraction | None = None
    """Momentum of optimisers that have one. Default: the optimiser's own."""

    grad_clip_norm: PositiveFloat | None = None
    """Clip the global gradient norm to this. Default: no clipping."""

    patch_dropout: Annotated[tuple[PatchDropoutPoint, ...], Field(strict=False)] = ()
    """Patch dropout over time, as corners of a line; overrides `model.patch_dropout`. Default: constant."""

    ema: EmaSection | None = None
    """Average the weights. Default: no average."""

    guard: GuardSection = GuardSection()
    """What to do about bad steps."""

    seed: NonNegativeInt = 0
    """Seed of initialisation, sample order and augmentation. Default 0."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of train.steps and train.epochs")
        return self

    @model_validator(mode="after")
    def _cooldown_fits_schedule(self) -> TrainSection:
        given = (self.cooldown_steps is not None) + (self.cooldown_epochs is not None)
        falls = self.schedule in ("constant-cooldown", "wsd")
        if falls and given != 1:
            raise ValueError(f"train.schedule {self.schedule} needs one of train.cooldown_steps and cooldown_epochs")
        if given and not falls:
            raise ValueError(f"train.schedule {self.schedule} has no cooldown: remove train.cooldown_*")
        return self

    @model_validator(mode="after")
    def _ordered_points(self) -> TrainSection:
        steps = [point.step for point in self.patch_dropout]
        if steps != sorted(set(steps)):
            raise ValueError("the steps of train.patch_dropout must increase")
        return self

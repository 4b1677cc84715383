"""From `train.loss` to what a step minimises."""

from __future__ import annotations

from typing import Literal

from clip_trainer.loss import ContrastiveLoss, SigmoidLoss
from clip_trainer.model import ClipModel, Precision
from clip_trainer.model.config import ClipConfig
from clip_trainer.train.group import Group
from clip_trainer.train.objective import LossWeights, ModelObjective
from clip_trainer.train.objective_encoder import ModelEncoder, Runner
from clip_trainer.train.teacher import build_teacher
from clip_trainer.vision import OPENAI_PREPROCESS, Preprocess
from clipctl.contract.errors import SpecError
from clipctl.contract.sections import LossSection
from clipctl.contract.spec import RunSpec

Kind = Literal["clip", "siglip", "coca"]


def build_objective(
    spec: RunSpec,
    model: ClipModel,
    group: Group,
    precision: Precision,
    preprocess: Preprocess,
    *,
    equal_pieces: bool = False,
) -> ModelObjective:
    """What a step of the run minimises. Collective if there is a teacher.

    Args:
        spec: the run.
        model: on the group's device.
        group: the ranks.
        precision: how to run student and teacher.
        preprocess: normalisation of the student's images; the teacher's are normalised as its weights ask for.
        equal_pieces: see `Parallel.equal_pieces`.

    Raises:
        SpecError: the loss does not suit the model, or the teacher not the student.
        ClipError: the teacher's weights cannot be had.
    """
    section = spec.train.loss
    kind = loss_kind(section, model.config)
    weights = loss_weights(section, kind)
    assert kind != "siglip" or model.logit_bias is not None  # `build_model` gives it one
    teacher = None
    if section.distill is not None:
        taught = build_teacher(section.distill, model.config, spec.model, group)
        asked = OPENAI_PREPROCESS.overlaid(getattr(taught.visual, "preprocess_cfg", None) or {})
        teacher = Runner(taught, precision, asked, group.device)
    encoder = ModelEncoder(Runner(model, precision, preprocess, group.device), teacher)
    contrast = SigmoidLoss() if kind == "siglip" else ContrastiveLoss()
    return ModelObjective(
        encoder, group, contrast, weights, micro_batch=spec.train.micro_batch, equal_pieces=equal_pieces
    )


def loss_kind(section: LossSection, config: ClipConfig) -> Kind:
    """The loss of a run, `auto` resolved.

    Raises:
        SpecError: it needs another kind of model.
    """
    if section.kind == "auto":
        return "coca" if config.kind == "coca" else "clip"
    if section.kind == "coca" and config.kind != "coca":
        raise SpecError(
            "train.loss.kind is coca, but the model writes no captions.",
            hint="Choose a CoCa model (as coca_ViT-B-32), or another loss.",
        )
    return section.kind


def loss_weights(section: LossSection, kind: Kind) -> LossWeights:
    """The weights of the terms.

    Raises:
        SpecError: all are 0.
    """
    weights = LossWeights(section.contrastive_weight, section.caption_weight if kind == "coca" else 0.0)
    if not (weights.contrastive or weights.caption or section.distill):
        raise SpecError(
            "every term of train.loss has weight 0: there is nothing to minimise.",
            hint="Set train.loss.contrastive_weight, or caption_weight with a CoCa model, to a positive number.",
        )
    return weights

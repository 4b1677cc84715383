"""The teacher of a distillation: found, checked against the student before its weights are fetched, and frozen."""

from __future__ import annotations

from dataclasses import asdict

from clip_trainer.library import assemble
from clip_trainer.library.source import Source
from clip_trainer.model import ClipModel
from clip_trainer.model.config import ClipConfig, TextConfig
from clip_trainer.train.build import build_model, find
from clip_trainer.train.group import Group
from clipctl.contract.errors import SpecError
from clipctl.contract.sections import DistillSection, LossSection, ModelSection


def build_teacher(section: DistillSection, student: ClipConfig, run: ModelSection, group: Group) -> ClipModel:
    """The teacher on every rank, in evaluation mode and without gradients. Collective.

    Args:
        section: `train.loss.distill`.
        student: configuration of the model that learns.
        run: `model` of run.yaml; the teacher computes in the same precision.
        group: the ranks.

    Raises:
        SpecError: there is no such model, or it cannot see what the student sees.
        ClipError: its weights cannot be had or do not fit; the same on every rank.
    """
    wanted = ModelSection(name=section.model, pretrained=section.pretrained, precision=run.precision)
    source = Source(**group.on_first(lambda: asdict(find(wanted))))
    check_teacher(section.model, assemble.configure(source, assemble.Overrides()), student)
    return build_model(wanted, LossSection(), 0, group, fresh=True).eval().requires_grad_(False)


def check_teacher(name: str, teacher: ClipConfig, student: ClipConfig) -> None:
    """See that the teacher takes the images and tokens that are made for the student.

    Raises:
        SpecError: it does not.
    """
    sizes = teacher.vision.image_hw, student.vision.image_hw
    lengths = teacher.text.context_length, student.text.context_length
    problem = None
    if sizes[0] != sizes[1]:
        problem = f"images of {_size(sizes[0])} pixels, the student {_size(sizes[1])}"
    elif lengths[0] != lengths[1]:
        problem = f"{lengths[0]} tokens of text, the student {lengths[1]}"
    elif tokenizer_family(teacher.text) != tokenizer_family(student.text):
        problem = f"tokens of {_named(teacher.text)}, the student those of {_named(student.text)}"
    elif teacher.text.vocab_size < student.text.vocab_size:
        problem = f"{teacher.text.vocab_size} different tokens, the student {student.text.vocab_size}"
    if problem is not None:
        raise SpecError(
            f"train.loss.distill: the teacher {name} takes {problem}; it must see what the student sees.",
            hint="Choose another teacher, or adapt the student with model.image_size and model.context_length.",
        )


def tokenizer_family(text: TextConfig) -> tuple[object, ...]:
    """Equal for text towers that take the same token ids."""
    name = text.hf_tokenizer_name
    if name is not None and "SigLIP2" in name:
        name = "SigLIP2"  # one vocabulary under many names
    return name, text.tokenizer_mode, sorted((text.tokenizer_kwargs or {}).items())


def _named(text: TextConfig) -> str:
    return text.hf_tokenizer_name or "CLIP's tokenizer"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

"""Class names and prompts for zero-shot classification: ImageNet's as data files, others from JSON. Needs no torch."""

from clip_trainer.eval.prompts.imagenet import (
    IMAGENET_CLASSNAMES,
    OPENAI_IMAGENET_TEMPLATES,
    SIMPLE_IMAGENET_TEMPLATES,
)
from clip_trainer.eval.prompts.sources import read_names, resolve_classes, resolve_templates
from clip_trainer.eval.prompts.template import Template

__all__ = [
    "IMAGENET_CLASSNAMES",
    "OPENAI_IMAGENET_TEMPLATES",
    "SIMPLE_IMAGENET_TEMPLATES",
    "Template",
    "read_names",
    "resolve_classes",
    "resolve_templates",
]

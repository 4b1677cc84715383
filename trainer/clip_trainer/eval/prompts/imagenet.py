"""ImageNet's class names and prompts, under OpenCLIP's names. The data files say where they come from."""

from __future__ import annotations

from importlib import resources

from clip_trainer.eval.prompts.template import Template


def read_lines(name: str) -> tuple[str, ...]:
    """The lines of a data file of this package after its attribution, which ends at the first empty line."""
    content = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return tuple(content.partition("\n\n")[2].splitlines())


IMAGENET_CLASSNAMES: tuple[str, ...] = read_lines("imagenet_classes.txt")
"""Names of the 1000 classes, in the order of the class numbers."""

OPENAI_IMAGENET_TEMPLATES: tuple[Template, ...] = tuple(map(Template, read_lines("openai_templates.txt")))
"""The 80 prompts of the CLIP paper (arXiv 2103.00020, section 3.1.4)."""

SIMPLE_IMAGENET_TEMPLATES: tuple[Template, ...] = tuple(map(Template, read_lines("simple_templates.txt")))
"""7 of them that do nearly as well together."""

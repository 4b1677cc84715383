"""From what a run.yaml says about classes and templates to the lists themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence

from clip_trainer.data.storage.location import parse_location
from clip_trainer.data.storage.source import open_source
from clip_trainer.eval.prompts.imagenet import (
    IMAGENET_CLASSNAMES,
    OPENAI_IMAGENET_TEMPLATES,
    SIMPLE_IMAGENET_TEMPLATES,
)
from clip_trainer.eval.prompts.template import PLACE, Template
from clipctl.contract.errors import MissingError, SpecError

_TEMPLATES = {"imagenet": OPENAI_IMAGENET_TEMPLATES, "simple": SIMPLE_IMAGENET_TEMPLATES}


def resolve_classes(value: Sequence[str] | str) -> tuple[str, ...]:
    """Class names from a list, from `imagenet`, or from a JSON file.

    Raises:
        SpecError: the file is no list of at least 2 names.
        MissingError: there is no such file.
    """
    if value == "imagenet":
        return IMAGENET_CLASSNAMES
    names = read_names(value) if isinstance(value, str) else tuple(value)
    if len(names) < 2:
        raise SpecError(f"{value} names {len(names)} classes.", hint="Zero-shot classification needs at least 2.")
    return names


def resolve_templates(value: Sequence[str] | str) -> tuple[Template, ...]:
    """Prompts from a list, from `imagenet` or `simple`, or from a JSON file.

    Raises:
        SpecError: the file is no list of prompts with `{}` in each.
        MissingError: there is no such file.
    """
    if isinstance(value, str) and value in _TEMPLATES:
        return _TEMPLATES[value]
    templates = read_names(value) if isinstance(value, str) else tuple(value)
    for template in templates:
        if PLACE not in template:
            raise SpecError(f"the template {template!r} of {value} has no {{}}.", hint="{} stands for the class name.")
    return tuple(map(Template, templates))


def read_names(location: str) -> tuple[str, ...]:
    """The list of texts in a JSON file, which may be local or in object storage.

    Raises:
        SpecError: it is something else than a list of texts, or empty.
        MissingError: there is no such file.
    """
    base, _, name = location.rpartition("/")
    source = open_source(parse_location(base or ("/" if location.startswith("/") else ".")))
    try:
        content = json.loads(source.load(name).decode("utf-8-sig"))
    except MissingError as error:
        raise MissingError(f"{location} does not exist.", hint="It should hold a JSON list of texts.") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{location} is not JSON: {error}.", hint="It should hold a list of texts.") from error
    if not isinstance(content, list) or not content or not all(isinstance(text, str) and text for text in content):
        raise SpecError(f"{location} is not a list of texts.", hint='As in ["cat", "dog"].')
    return tuple(content)

"""A prompt with a place for the class name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

PLACE = "{}"


class Template(str):
    """A prompt that is a format string and can be called, so that it fits wherever OpenCLIP takes either."""

    __slots__ = ()

    def __call__(self, name: str) -> str:
        """The prompt for a class. Only the pair of braces is special, so that other braces may stand in a prompt."""
        return self.replace(PLACE, name)


AnyTemplate = str | Callable[[str], str]


def filled(templates: Sequence[AnyTemplate], name: str) -> list[str]:
    """The prompts for one class; templates are `Template`, format strings or functions.

    As in OpenCLIP the first template decides how all of them are filled; a `Template` is called.
    """
    if isinstance(templates[0], str) and not callable(templates[0]):
        return [str(template).format(name) for template in templates]
    return [template(name) for template in templates]  # type: ignore[operator]

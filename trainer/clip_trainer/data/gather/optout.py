"""`X-Robots-Tag`: what the owner of an image says about its use, in a header of the answer.

`noai` and `noimageai` ask not to be used for training, `noindex` and `noimageindex` to be in no collection. A
directive may be addressed to one agent, as in `clipctl: noindex`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

HEADER = "X-Robots-Tag"

DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
"""Directives that are honoured by default."""

_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def opt_out(values: Iterable[str], agent: str, directives: Collection[str] = DIRECTIVES) -> str | None:
    """The first directive that keeps an image out, or None.

    Args:
        values: of every `X-Robots-Tag` header.
        agent: the product token we go by.
        directives: what counts, in lower case.
    """
    for value in values:
        for directive in _addressed(value, agent):
            # `none` is short for `noindex, nofollow`.
            meant = "noindex" if directive == "none" else directive
            if meant in directives:
                return meant
    return None


def _addressed(value: str, agent: str) -> list[str]:
    """The directives of one header that speak to everybody or to us."""
    name, colon, rest = value.partition(":")
    name = name.strip().lower()
    if colon and "," not in name and name not in _WITH_VALUE:
        if name != agent.lower():
            return []
        value = rest
    return [directive.strip().lower() for directive in value.split(",")]

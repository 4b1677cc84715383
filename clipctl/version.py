"""The version of this installation."""

from __future__ import annotations


def version() -> str:
    """Version of the installed distribution; `0+source` when run from a tree that was never installed."""
    from importlib import metadata

    try:
        return metadata.version("clipctl")
    except metadata.PackageNotFoundError:
        return "0+source"

"""Asking a store about many objects at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from clip_trainer.data.storage.source import ObjectInfo
from clipctl.contract.errors import MissingError

_THREADS = 16


def parallel_info(info: Callable[[str], ObjectInfo], names: Iterable[str]) -> dict[str, ObjectInfo]:
    """`info` of those objects that exist."""

    def info_or_none(name: str) -> ObjectInfo | None:
        try:
            return info(name)
        except MissingError:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        return {found.name: found for found in pool.map(info_or_none, names) if found is not None}

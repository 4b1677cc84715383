"""What is gathered into a place: `gather.json`, written first, so that a later run can tell whether it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clip_trainer.data.storage.source import Source
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError

RECORD_NAME = "gather.json"

_FORMAT = {"format": "clipctl-gather", "version": 1}
_START_AGAIN = "Choose another output, or delete what is there."


def claim(sink: Source, options: Mapping[str, Any]) -> None:
    """Make sure that a place is empty or holds the beginnings of the same work.

    Args:
        sink: the place.
        options: what decides the shards, JSON values by name.

    Raises:
        CannotCreateError: it holds other shards, or some of another table.
        CorruptError: its record is damaged.
    """
    wanted = {**_FORMAT, **options}
    found = _load(sink)
    if found is None:
        _refuse_shards(sink)
        sink.save(RECORD_NAME, json.dumps(wanted, indent=1).encode() + b"\n")
        return
    differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differing:
        raise CannotCreateError(
            f"{sink.base} was gathered from another table or with other options ({', '.join(differing)} differ).",
            hint=_START_AGAIN,
        )


def _load(sink: Source) -> dict[str, Any] | None:
    try:
        found = json.loads(sink.load(RECORD_NAME))
    except MissingError:
        return None
    except ValueError as error:
        raise CorruptError(f"{sink.base}/{RECORD_NAME} is damaged ({error}).", hint=_START_AGAIN) from error
    if not isinstance(found, dict):
        raise CorruptError(f"{sink.base}/{RECORD_NAME} is damaged.", hint=_START_AGAIN)
    return found


def _refuse_shards(sink: Source) -> None:
    try:
        existing = sink.list_shards()
    except MissingError:
        return
    if existing:
        raise CannotCreateError(f"{sink.base} holds {len(existing)} other shards already.", hint=_START_AGAIN)

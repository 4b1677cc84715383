"""Reading the JSON records of a checkpoint: anything but a well-formed record of a known version is corrupt."""

from __future__ import annotations

import json
from typing import Any

from clipctl.contract.errors import CorruptError


def parse_record(data: bytes, what: str, versions: tuple[int, ...]) -> dict[str, Any]:
    """The JSON object in `data`.

    Args:
        data: bytes as stored.
        what: how errors call it.
        versions: format versions that can be read.

    Raises:
        CorruptError: it is not JSON, not an object, or of another version.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{what} is not JSON.") from error
    if not isinstance(raw, dict):
        raise CorruptError(f"{what} is not a JSON object.")
    version = raw.get("version")
    if type(version) is not int or version not in versions:
        known = f"version {versions[0]}" if len(versions) == 1 else f"versions {versions[0]} to {versions[-1]}"
        raise CorruptError(
            f"{what} has format version {version!r}; this clipctl reads {known}.",
            hint="Use the clipctl release that wrote it, or a newer one.",
        )
    return raw

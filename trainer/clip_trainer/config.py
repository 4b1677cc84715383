"""The trainer's configuration file: the resolved RunSpec and its digest, as the CLI or the chart wrote it.

A file and not flags, because torchrun's option parser claims prefixes such as `--logs`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from clipctl.contract.errors import MissingError, SpecError
from clipctl.contract.names import ENV_ATTEMPT
from clipctl.contract.spec import RunSpec


@dataclass(frozen=True)
class RunConfig:
    """What one trainer process is told: the spec, its digest, and which attempt of the run this is."""

    spec: RunSpec
    spec_digest: str
    attempt: int


def load_config(path: str | Path) -> RunConfig:
    """Read the configuration file; the attempt number comes from the environment.

    Raises:
        MissingError: there is no such file.
        SpecError: it is not a resolved spec, or belongs to another version of clipctl.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        spec = RunSpec.model_validate_json(json.dumps(raw["spec"]))
    except FileNotFoundError as error:
        raise MissingError(f"the configuration file {path} does not exist.") from error
    except OSError as error:
        raise MissingError(f"the configuration file {path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise SpecError(
            f"{path} is not a resolved run specification: {detail}.",
            hint="Submit the run again with the clipctl version of the image.",
        ) from error
    return RunConfig(spec, str(raw.get("spec_digest") or spec.digest()), _attempt())


def _attempt() -> int:
    text = os.environ.get(ENV_ATTEMPT, "1")
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise SpecError(f"{ENV_ATTEMPT} is {text!r}; it must be a positive number.")
    return int(text)

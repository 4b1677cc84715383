"""Environment variables and secrets of the workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import StringConstraints

from clipctl.contract.names import RESERVED_ENV, RESERVED_ENV_PREFIXES
from clipctl.contract.redact import is_secret_name
from clipctl.contract.sections.base import DnsLabel, Section


class SecretRef(Section):
    """An environment variable taken from a Kubernetes Secret. Values never stand in run.yaml."""

    secret: DnsLabel
    """Name of the Secret."""

    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
    """Key in the Secret."""


def check_environment(env: Mapping[str, str], secrets: Collection[str]) -> None:
    """Refuse variables that would hide a secret in plain text or override what clipctl itself sets.

    Args:
        env: plain variables.
        secrets: names of those taken from Kubernetes Secrets.

    Raises:
        ValueError: naming the variable.
    """
    for name in (*env, *secrets):
        if name in RESERVED_ENV or name.startswith(RESERVED_ENV_PREFIXES):
            raise ValueError(f"{name} is set by clipctl and cannot be overridden")
    for name in env:
        if is_secret_name(name) or name == "AWS_ACCESS_KEY_ID":
            raise ValueError(f"{name} looks like a credential: take it from a Secret with the `secrets` section")
        if name in secrets:
            raise ValueError(f"{name} stands in env and in secrets")

"""Finds a run's storage from what people have at hand: its run.yaml, its name, or the URL itself."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from clipctl.contract.errors import MissingError
from clipctl.contract.retention import KeepPolicy
from clipctl.contract.store import ObjectStore, open_store


@dataclass(frozen=True)
class Target:
    """Where a run stores things, the plain environment its storage needs, and what its run.yaml says to keep."""

    run_root: str
    environment: dict[str, str] = field(default_factory=dict)
    keep: KeepPolicy | None = None

    def open(self) -> ObjectStore:
        """The run's store; missing variables are set for the rest of this process.

        Raises:
            MissingError: nothing is stored there.
        """
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        return open_store(self.run_root)


def find(target: str, namespace: str | None = None, context: str | None = None) -> Target:
    """The storage of `target`: a path of a run.yaml, a run root (URL or directory), or the name of a run."""
    if target.endswith((".yaml", ".yml")) or os.path.isfile(target):
        from clipctl.specfile import load_spec

        spec = load_spec(target)
        environment = {name: value for name, value in spec.env.items() if name.startswith("AWS_")}
        return Target(spec.root, environment, spec.checkpoint.keep_policy)
    if "/" in target or os.path.isdir(target):
        return Target(target.rstrip("/"))
    from clipctl.backends.choose import backend_of

    status = backend_of(target, local=False, namespace=namespace, context=context).status(target)
    if not status.run_root:
        raise MissingError(f"run {target} does not say where its storage is.", hint="Give the URL of its root.")
    return Target(status.run_root, dict(status.storage_env))

"""Which backend a command talks to."""

from __future__ import annotations

from clipctl.backends.base import Backend
from clipctl.contract.errors import ClipError, MissingError


def local_backend() -> Backend:
    """Runs on this machine."""
    from clipctl.backends.local import LocalBackend

    return LocalBackend()


def kubernetes_backend(namespace: str | None, context: str | None) -> Backend:
    """Runs in a namespace of a cluster."""
    from clipctl.apply import connect
    from clipctl.backends.kubernetes import KubernetesBackend

    return KubernetesBackend(connect(namespace, context))


def backend_of(name: str, *, local: bool, namespace: str | None, context: str | None) -> Backend:
    """The backend that has the run `name`.

    A local run of this name is preferred unless a namespace or context is given; `local` never asks the cluster.

    Raises:
        MissingError: there is no such run here, and no cluster to ask.
    """
    if namespace is None and context is None:
        here = local_backend()
        if local or any(run.name == name for run in here.list()):
            return here
    try:
        return kubernetes_backend(namespace, context)
    except ClipError as error:
        if namespace is None and context is None:
            raise MissingError(
                f"there is no local run {name}, and no cluster to ask: {error.problem}", hint=error.hint
            ) from error
        raise

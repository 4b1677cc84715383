"""Turns what the API server or the network says into errors with a remedy."""

from __future__ import annotations

import json
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException

from clipctl.apply.kinds import Kind
from clipctl.contract.errors import (
    ClipError,
    ClusterConfigError,
    InternalError,
    MissingError,
    PermissionDeniedError,
    SpecError,
    UnavailableError,
)

_INSTALL = {
    "PyTorchJob": "Install training-operator: kubectl apply --server-side -k "
    "'github.com/kubeflow/trainer/manifests/overlays/standalone?ref=v1.9.4'.",
    "PodMonitor": "Install the Prometheus operator, or set metrics.pod_monitor: false.",
    "LocalQueue": "Install Kueue, or leave out scale.queue.",
}
_ABSENT_API = ("page not found", "could not find the requested resource")
_SPEC_CODES = frozenset({400, 409, 422})


def translate(error: Exception, verb: str, kind: Kind, namespace: str, name: str = "") -> ClipError:
    """The `ClipError` for a failed request to `verb` an object of `kind`."""
    if isinstance(error, ApiException) and error.status:
        return _from_status(error, verb, kind, namespace, name)
    if isinstance(error, (urllib3.exceptions.HTTPError, OSError, ApiException)):
        return _unreachable(error)
    if isinstance(error, ValueError):
        return UnavailableError(
            f"the answer to {verb} {kind.plural} is not JSON.", hint="Is there a proxy between here and the API server?"
        )
    return InternalError(f"the request to {verb} {kind.plural} failed: {type(error).__name__}: {error}.")


def _from_status(error: ApiException, verb: str, kind: Kind, namespace: str, name: str) -> ClipError:
    status = int(error.status)
    reply = _reply(error)
    message = str(reply.get("message") or error.reason or f"HTTP {status}").rstrip(".")
    if status == 401:
        return PermissionDeniedError(
            "the API server does not accept these credentials.",
            hint="Log in again, or check the user of the kubeconfig context.",
        )
    if status == 403 and "is forbidden" in message and "cannot" not in message:
        # An admission plugin (quota, pod security) refused the object; that is no question of rights.
        return ClusterConfigError(f"the cluster refuses the {kind.kind}: {message}.")
    if status == 403:
        return PermissionDeniedError(
            f"no permission to {verb} {kind.plural}{_in_group(kind)} in {_scope(kind, namespace)}.",
            hint="Ask for a Role with this verb, or use another namespace or context; `clipctl doctor` lists all.",
        )
    if status == 404:
        return _not_found(kind, namespace, name, reply)
    if status in _SPEC_CODES:
        return SpecError(f"the API server refuses the {kind.kind} {name}: {message}.".replace("  ", " "))
    if status >= 500 or status == 429:
        return UnavailableError(f"the API server failed ({status}): {message}.", hint="Try again in a moment.")
    return InternalError(f"the API server answered {status} to {verb} {kind.plural}: {message}.")


def _not_found(kind: Kind, namespace: str, name: str, reply: dict[str, Any]) -> ClipError:
    message = str(reply.get("message", ""))
    # An absent object is named in the message; for an absent API the server only knows that the path is wrong.
    if any(text in message for text in _ABSENT_API) and kind.kind in _INSTALL:
        return ClusterConfigError(
            f"the {kind.kind} CRD ({kind.plural}.{kind.group}) is not installed in this cluster.",
            hint=_INSTALL[kind.kind],
        )
    if message.startswith("namespaces "):
        return ClusterConfigError(
            f"namespace {namespace} does not exist.", hint=f"Create it: kubectl create namespace {namespace}."
        )
    return MissingError(f"there is no {kind.kind} {name} in namespace {namespace}.")


def _scope(kind: Kind, namespace: str) -> str:
    return f"namespace {namespace}" if kind.namespaced else "the whole cluster"


def _in_group(kind: Kind) -> str:
    return f".{kind.group}" if kind.group else ""


def _reply(error: ApiException) -> dict[str, Any]:
    body = error.body
    if isinstance(body, bytes):
        body = body.decode(errors="replace")
    try:
        parsed = json.loads(body or "")
    except ValueError:
        return {"message": str(body or "").strip()[:500]}
    return parsed if isinstance(parsed, dict) else {}


def _unreachable(error: Exception) -> UnavailableError:
    reason = getattr(error, "reason", None) or error
    text = " ".join(str(reason).split())
    # urllib3 puts the repr of its connection object in front.
    text = text.rpartition(">: ")[2] or text
    if "CERTIFICATE" in text.upper():
        hint = "Check certificate-authority and server in the kubeconfig."
    else:
        hint = "Check that the cluster is up and that the kubeconfig points to it; `clipctl doctor` shows more."
    return UnavailableError(f"the API server cannot be reached: {text[:300].rstrip('.')}.", hint=hint)

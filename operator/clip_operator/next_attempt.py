"""The PyTorchJob of the next attempt, made from the one before it: the cluster already holds everything needed."""

from __future__ import annotations

import copy as copies
from collections.abc import Mapping

from clip_operator.api import Object
from clip_operator.job_view import JobView
from clipctl.contract import names

_CARRIED = (
    names.ANNOTATION_SPEC_DIGEST,
    names.ANNOTATION_CHECKPOINT_ROOT,
    names.ANNOTATION_RETRY,
)


def next_attempt(previous: JobView, run: str, number: int, annotations: Mapping[str, str]) -> Object:
    """A new job object: same spec, another name, attempt number and rendezvous id; no status, not suspended by us.

    A job of a Kueue queue starts suspended, as Kueue wants it; it is admitted anew.
    """
    source = previous.raw
    labels = {**source["metadata"].get("labels", {}), names.LABEL_ATTEMPT: str(number)}
    kept = {key: value for key, value in previous.annotations.items() if key in _CARRIED}
    spec = copies.deepcopy(source["spec"])
    policy = spec.setdefault("runPolicy", {})
    policy.pop("activeDeadlineSeconds", None)
    policy["suspend"] = previous.queued
    elastic = spec.setdefault("elasticPolicy", {})
    elastic["rdzvId"] = names.rendezvous_id(run, kept.get(names.ANNOTATION_SPEC_DIGEST, ""), number)
    for replica in spec.get("pytorchReplicaSpecs", {}).values():
        _renumber(replica.get("template", {}), number)
    return {
        "apiVersion": source.get("apiVersion", "kubeflow.org/v1"),
        "kind": source.get("kind", "PyTorchJob"),
        "metadata": {
            "name": names.job_name(run, number),
            "namespace": source["metadata"]["namespace"],
            "labels": labels,
            "annotations": {**kept, **annotations},
        },
        "spec": spec,
    }


def _renumber(template: Object, number: int) -> None:
    template.setdefault("metadata", {}).setdefault("labels", {})[names.LABEL_ATTEMPT] = str(number)
    for container in template.get("spec", {}).get("containers", ()):
        if container.get("name") != names.CONTAINER:
            continue
        others = [entry for entry in container.get("env", ()) if entry.get("name") != names.ENV_ATTEMPT]
        container["env"] = [{"name": names.ENV_ATTEMPT, "value": str(number)}, *others]

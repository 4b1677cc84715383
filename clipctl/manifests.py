"""Kubernetes manifests as plain dicts: parse, order, print."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

Manifest = dict[str, Any]

# Things others refer to come first, the job last: when it starts, everything it needs is there.
_ORDER = ("ServiceAccount", "ConfigMap", "Service", "Deployment", "PodMonitor", "PyTorchJob")
# Go's YAML reads more plain scalars as numbers than PyYAML writes quoted (`1e5`, `0o17`), so whatever starts like a
# number is quoted.
_NUMBER_LIKE = re.compile(r"[-+.0-9]")


def parse_manifests(text: str) -> list[Manifest]:
    """All objects of a rendered template; empty documents are dropped."""
    return [document for document in yaml.load_all(text, Loader=_LOADER) if document]


def in_order(objects: Iterable[Manifest]) -> list[Manifest]:
    """The objects in the order in which they are applied and printed."""
    return sorted(objects, key=lambda item: (_rank(item["kind"]), item["kind"], item["metadata"]["name"]))


def is_hook(item: Manifest) -> bool:
    """Whether Helm would run the object as a hook instead of installing it."""
    return "helm.sh/hook" in (item.get("metadata", {}).get("annotations") or {})


def to_yaml(objects: Iterable[Manifest]) -> str:
    """The objects as one YAML stream; the same objects always give the same text."""
    parts = [yaml.dump(item, Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=10**6) for item in objects]
    return "".join(f"---\n{part}" for part in parts)


def file_name(item: Manifest) -> str:
    """File name for one object, such as `pytorchjob-demo-1.yaml`."""
    return f"{item['kind'].lower()}-{item['metadata']['name']}.yaml"


def _rank(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER) - 1


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(yaml.SafeDumper):
    """Block style, no aliases, strings that look like numbers quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _NUMBER_LIKE.match(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)

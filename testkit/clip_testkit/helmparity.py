"""Embedded Helm and a helm binary must render the same bytes; used by a unit test and, without skipping, in e2e."""

from __future__ import annotations

import shutil
from pathlib import Path

from clip_testkit.runyaml import quoted, spec_with
from clipctl.manifests import to_yaml
from clipctl.render import EmbeddedHelm, HelmBinary, render

NASTY = "a\"'\\ \n---\nkind: Pod\n{{ .Release.Name }} ${HOME} \u2028\u0085\x7f \U0001f600 \\ud83d # : - no"
NASTY_ENV = (f"env.NASTY={quoted(NASTY)}", 'env.NUMBER="1e5"', 'env.FLAG="no"', 'env.TIME="12:30"', 'env.OCTAL="0o17"')
MATRIX: tuple[tuple[str, ...], ...] = (
    (),
    NASTY_ENV,
    ("metrics.pod_monitor=true", "scale.queue=q", "scale.priority_class=p"),
    ("scale.nodes={min: 2, max: 4}", "scale.devices_per_node=2", "scale.resources.gpu=2"),
    ("secrets.AWS_SECRET_ACCESS_KEY={secret: s, key: k}", "scale.service_account=cloud"),
    ("scale.volumes=[{claim: c, mount: /data}]", "scale.tolerations=[{key: gpu, operator: Exists}]"),
    ("scale.node_selector={zone: a}", "scale.image_pull_secrets=[x]", "retry.ttl_seconds=0"),
)


def helm_binary() -> str | None:
    """A helm on PATH, or the one that `make cluster-up` builds; None if there is neither."""
    cached = sorted((Path.home() / ".cache" / "clipctl" / "bin").glob("helm*"))
    return shutil.which("helm") or (str(cached[-1]) if cached else None)


def rendered_by_both(overrides: tuple[str, ...], program: str) -> tuple[str, str]:
    """The manifests of a spec, rendered by embedded Helm and by `program`."""
    spec = spec_with(*overrides)
    embedded = to_yaml(render(spec, "ns", attempt=2, renderer=EmbeddedHelm()))
    return embedded, to_yaml(render(spec, "ns", attempt=2, renderer=HelmBinary(program)))

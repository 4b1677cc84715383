"""Render the charts into manifests/, for `kubectl apply -f` without Helm and without the CLI.

    python scripts/render_manifests.py           write manifests/
    python scripts/render_manifests.py --check   change nothing; exit with 1 if a file is out of date

manifests/operator.yaml is charts/clip-operator with its defaults in the namespace clip-system; there is one
manifests/run-<folder>.yaml for each run file of examples/ whose data lies in object storage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from clipctl.manifests import Manifest, in_order, is_hook, parse_manifests, to_yaml
from clipctl.render import choose_renderer, render
from clipctl.specfile import load_spec

ROOT = Path(__file__).resolve().parent.parent
OPERATOR_NAMESPACE = "clip-system"
_HEADER = "# Rendered by scripts/render_manifests.py from {source}; do not edit.\n"


def manifests() -> dict[str, str]:
    """File name and text of every manifest."""
    found = {"operator.yaml": _dump(operator_objects(), "charts/clip-operator")}
    for path in sorted((ROOT / "examples").glob("*/run*.yaml")):
        if not _is_remote(path):
            continue
        suffix = path.stem.removeprefix("run")
        objects = render(load_spec(str(path)), "default")
        for item in objects:
            item["metadata"].pop("namespace", None)  # so that `kubectl apply -n NAMESPACE` decides
        found[f"run-{path.parent.name}{suffix}.yaml"] = _dump(objects, f"{path.relative_to(ROOT)} and charts/clip-run")
    return found


def operator_objects() -> list[Manifest]:
    """The namespace and everything of the operator's chart."""
    text = choose_renderer().render(ROOT / "charts" / "clip-operator", {}, "clip-operator", OPERATOR_NAMESPACE)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}}
    return [namespace, *in_order(item for item in parse_manifests(text) if not is_hook(item))]


def _is_remote(path: Path) -> bool:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return str(raw["data"]["train"]).startswith("s3://")


def _dump(objects: list[Manifest], source: str) -> str:
    return _HEADER.format(source=source) + to_yaml(objects)


def main() -> int:
    """Write or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file is out of date")
    check = parser.parse_args().check
    folder = ROOT / "manifests"
    wanted = manifests()
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    stale = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
    if check and stale:
        print(f"out of date: {', '.join(stale)}: run python scripts/render_manifests.py", file=sys.stderr)
        return 1
    for name in stale:
        if name in wanted:
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Which locations of a spec a pod can reach: URLs, and paths on mounted volumes."""

from __future__ import annotations

import posixpath

from clipctl.contract.errors import SpecError
from clipctl.contract.sections import VolumeSection
from clipctl.contract.spec import RunSpec


def check_locations(spec: RunSpec) -> None:
    """Refuse paths that exist on this machine but in no pod.

    Raises:
        SpecError: naming every such field.
    """
    problems = [f"{field} ({location}) {problem}" for field, location, problem in _unreachable(spec)]
    if problems:
        raise SpecError(
            f"pods cannot reach what the spec names: {'; '.join(problems)}.",
            hint="Use an s3:// URL, mount a volume with scale.volumes, or run on this machine with --local.",
        )


def _unreachable(spec: RunSpec) -> list[tuple[str, str, str]]:
    found = []
    for field, location in spec.locations().items():
        problem = _problem(location, spec.scale.volumes, writes=field == "checkpoint.path")
        if problem:
            found.append((field, location, problem))
    return found


def _problem(location: str, volumes: tuple[VolumeSection, ...], *, writes: bool) -> str:
    scheme, separator, rest = location.partition("://")
    if separator and scheme != "file":
        return ""
    path = rest if separator else location
    if not path.startswith("/"):
        return "is a relative path"
    normal = posixpath.normpath(path)
    holding = [
        v for v in volumes if posixpath.commonpath([normal, posixpath.normpath(v.mount)]) == posixpath.normpath(v.mount)
    ]
    if not holding:
        return "is on no mounted volume"
    if writes and all(volume.read_only for volume in holding):
        return "is on a volume that is mounted read-only"
    return ""

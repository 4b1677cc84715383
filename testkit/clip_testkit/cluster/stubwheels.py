"""Wheels of stub libraries under the names of the distributions they replace, with the local version `+stub`.

An installer that is given their directory takes them for the real ones (`==1.2` admits `1.2+stub`, PEP 440), so the
Dockerfile needs no branch for tests.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from clip_testkit.cluster import cudastubs
from clip_testkit.cluster.cudastubs import NO_ERROR, compile_stub, cudnn_version, needed_symbols
from clipctl.contract.errors import MissingError

LOCAL = "stub"
EMPTIED = ("triton",)
"""Distributions that torch imports only to compile for a GPU: replaced by nothing."""
WHEEL = "Wheel-Version: 1.0\nGenerator: clip_testkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def sources() -> bytes:
    """The code that makes the wheels: part of the key under which they are cached."""
    return b"".join(Path(path).read_bytes() for path in (__file__, cudastubs.__file__))


def write_wheel(directory: Path, name: str, version: str, files: Mapping[str, bytes]) -> Path:
    """Write a wheel (format: PEP 427) without requirements; equal input gives equal bytes."""
    stem = f"{canonicalize_name(name).replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    contents = {**files, f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": WHEEL.encode()}
    record = "".join(f"{path},sha256={_urlsafe(data)},{len(data)}\n" for path, data in contents.items())
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = directory / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in contents.items():
            archive.writestr(zipfile.ZipInfo(member), data)
    return path


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def closure(name: str, extras: frozenset[str] = frozenset()) -> dict[str, str]:
    """Versions of the installed distributions that one needs, itself excluded, by canonical name.

    Args:
        name: an installed distribution.
        extras: its extras to follow.

    Raises:
        MissingError: a needed distribution is not installed.
    """
    known = {canonicalize_name(d.metadata["Name"]): d for d in distributions()}
    found: dict[str, str] = {}
    seen: set[tuple[NormalizedName, frozenset[str]]] = set()
    pending = [(canonicalize_name(name), extras)]
    while pending:
        item = pending.pop()
        if item in seen:
            continue
        seen.add(item)
        if item[0] not in known:
            raise MissingError(f"{item[0]} is not installed here.", hint="Install the test environment: make install.")
        installed = known[item[0]]
        found[item[0]] = installed.version
        pending += [(canonicalize_name(r.name), frozenset(r.extras)) for r in _requirements(installed, item[1])]
    found.pop(canonicalize_name(name))
    return dict(sorted(found.items()))


def _requirements(installed: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    environment = {key: str(value) for key, value in default_environment().items()}
    for text in installed.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**environment, "extra": e}) for e in ("", *extras)):
            yield requirement


def stubbed(versions: Mapping[str, str]) -> dict[str, str]:
    """Of some distributions those that stubs replace."""
    return {n: v for n, v in versions.items() if n.startswith("nvidia-") or n in EMPTIED}


def write_stub_wheels(directory: Path, versions: Mapping[str, str]) -> None:
    """Write a stub wheel for each of the distributions, from the libraries of the installed torch.

    Raises:
        UnavailableError: readelf or gcc failed.
    """
    torch = Path(str(distribution("torch").locate_file("torch/lib")))
    sonames, expected = needed_symbols(sorted(torch.glob("*.so")))
    cudnn = next((version for name, version in versions.items() if "cudnn" in name), None)
    returns = NO_ERROR if cudnn is None else {**NO_ERROR, "cudnnGetVersion": cudnn_version(cudnn)}
    for name, version in versions.items():
        files: dict[str, bytes] = {}
        for entry in (distribution(name).files or []) if name not in EMPTIED else []:
            if entry.name in sonames:
                stub = directory / entry.name
                compile_stub(Path(str(entry.locate())), expected, stub, returns)
                files[str(entry)] = stub.read_bytes()
                stub.unlink()
        write_wheel(directory, name, f"{version}+{LOCAL}", files)

"""How a user names weights that are not a tag: a file, a directory, a hub repository, an address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clipctl.contract.errors import MissingError, SpecError

HUB_PREFIX = "hf-hub:"
DIRECTORY_PREFIX = "local-dir:"
MAIN = "main"
"""The revision that is meant if none is named."""
STORE_SCHEMES = frozenset({"s3", "gs", "gcs", "az", "abfs"})
"""Schemes of object stores, as in `data.train`."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
_WEIGHTS = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


@dataclass(frozen=True)
class HubLocation:
    """A file of a repository on the hub; `filename` is empty for the standard names of weights."""

    repository: str
    revision: str | None = None
    filename: str = ""


@dataclass(frozen=True)
class UrlLocation:
    """A file on a web server or in object storage."""

    url: str

    @property
    def scheme(self) -> str:
        """`https`, `s3`, …"""
        return self.url.partition(":")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2]


@dataclass(frozen=True)
class PathLocation:
    """A local file or directory."""

    path: Path


Location = HubLocation | UrlLocation | PathLocation


def is_location(text: str) -> bool:
    """Whether the text names a place, not a tag."""
    return bool(text.startswith((HUB_PREFIX, DIRECTORY_PREFIX, "/", "./", "../", "~")) or _SCHEME.match(text)) or (
        Path(text).exists()
    )


def parse_location(text: str) -> Location:
    """Read a location: `hf-hub:org/repo[@revision][/file]`, `local-dir:PATH`, an address, a path.

    Raises:
        SpecError: malformed, or a scheme that nothing here can read.
    """
    if text.startswith(HUB_PREFIX):
        return _hub_location(text)
    if text.startswith(DIRECTORY_PREFIX):
        if text == DIRECTORY_PREFIX:
            raise SpecError("`local-dir:` names no directory.", hint="Write local-dir:PATH.")
        return PathLocation(Path(text.removeprefix(DIRECTORY_PREFIX)).expanduser())
    match = _SCHEME.match(text)
    if match is None:
        return PathLocation(Path(text).expanduser())
    if match.group(1) == "file":
        return PathLocation(Path(text.removeprefix("file://")))
    if match.group(1) not in STORE_SCHEMES | {"http", "https"}:
        raise SpecError(
            f"{text[:120]}: weights cannot be read over {match.group(1)}://.",
            hint="Use a path, hf-hub:, https://, http:// or s3://.",
        )
    location = UrlLocation(text)
    if not location.name or location.name in (".", "..") or "\0" in location.name:
        raise SpecError(f"{text[:120]} names no file.", hint="Give the address of the file of weights itself.")
    return location


def _hub_location(text: str) -> HubLocation:
    """`org/repo`, then `@revision` (`%2F` for a slash in it), then `/file`."""
    rest = text.removeprefix(HUB_PREFIX)
    name, at, tail = rest.partition("@")
    revision: str | None = None
    if at:
        revision, _, filename = tail.partition("/")
        revision = unquote(revision)
    else:
        parts = rest.split("/", 2)
        name, filename = "/".join(parts[:2]), "".join(parts[2:])
    return HubLocation(checked_repository(name), checked_revision(revision), checked_filename(filename))


def checked_repository(name: str) -> str:
    """The name itself if it is one of a repository. Raises `SpecError` otherwise."""
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise SpecError(
            f"{name[:120]!r} is not the name of a hub repository.",
            hint="Write hf-hub:org/repo, hf-hub:org/repo@revision or hf-hub:org/repo/file.",
        )
    return name


def checked_revision(revision: str | None) -> str | None:
    """The revision itself if it can be one. Raises `SpecError` otherwise."""
    if revision is not None and (not re.fullmatch(r"\w[\w./-]*", revision) or ".." in revision):
        raise SpecError(f"{revision[:120]!r} is not a revision.", hint="Give a branch, a tag or a commit.")
    return revision


def checked_filename(name: str) -> str:
    """The file name itself if it stays inside of a repository. Raises `SpecError` otherwise."""
    parts = name.split("/")
    if name and (name.startswith("/") or "\\" in name or "\0" in name or any(p in ("", ".", "..") for p in parts)):
        raise SpecError(f"{name[:120]!r} is not the name of a file in a repository.")
    return name


def weights_in(directory: Path) -> Path:
    """The file of weights in a directory: the first of OpenCLIP's names that is there, else the only one.

    Raises:
        MissingError: there is none, or no such directory.
        SpecError: several, none of which has a standard name.
    """
    if not directory.is_dir():
        raise MissingError(f"There is no directory {directory}.", hint="Check the path.")
    for name in _WEIGHTS:
        if (directory / name).is_file():
            return directory / name
    found = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    if not found:
        raise MissingError(f"{directory} holds no weights.", hint=f"Expected is a file such as {_WEIGHTS[0]}.")
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise SpecError(f"{directory} holds several files of weights: {names}.", hint="Name the one to load.")
    return found[0]

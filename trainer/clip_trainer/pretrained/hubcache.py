"""The cache of the hub's files, in the layout of `huggingface_hub`, so that every tool of a machine shares one copy.

Below the root: `models--ORG--NAME/blobs/ETAG` holds the bytes, `snapshots/COMMIT/FILE` links to them, `refs/REVISION`
holds the commit a branch or tag meant, `.locks/models--ORG--NAME/ETAG.lock` is held by whoever is downloading.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from clip_trainer.pretrained.digests import Expected, expected_from_etag
from clip_trainer.pretrained.partial import translated

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class CachedFile:
    """A file that is in the cache."""

    path: Path  # in the snapshot
    commit: str

    @property
    def expected(self) -> Expected:
        """What the name of its blob says of the content; nothing where the cache could not make links."""
        return expected_from_etag(self.path.resolve().name)


class HubCache:
    """The cache below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, repository: str, revision: str, filename: str) -> CachedFile | None:
        """The file if it is there."""
        commit = self._commit(repository, revision)
        if commit is None:
            return None
        path = self._snapshot(repository, commit) / filename
        return CachedFile(path, commit) if path.is_file() else None

    def blob(self, repository: str, etag: str) -> Path:
        """Where the bytes of a file are."""
        return self._repository(repository) / "blobs" / etag

    def lock(self, repository: str, etag: str) -> Path:
        """What a process holds while it downloads that file; `huggingface_hub` uses the same."""
        return self._root / ".locks" / self._repository(repository).name / f"{etag}.lock"

    def link(self, repository: str, commit: str, filename: str, etag: str) -> Path:
        """Enter a blob into a snapshot."""
        blob, path = self.blob(repository, etag), self._snapshot(repository, commit) / filename
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not (path.is_symlink() and path.resolve() == blob.resolve()):
                _replace_with_link(path, blob)
        return path

    def remember(self, repository: str, revision: str, commit: str) -> None:
        """Note which commit a branch or tag means now."""
        if revision == commit:
            return
        path = self._repository(repository) / "refs" / revision
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary_beside(path)
            temporary.write_text(commit, encoding="utf-8")
            os.replace(temporary, path)

    def forget(self, cached: CachedFile) -> None:
        """Remove a damaged file, link and blob."""
        with translated(cached.path):
            cached.path.resolve().unlink(missing_ok=True)
            cached.path.unlink(missing_ok=True)

    def _repository(self, repository: str) -> Path:
        return self._root / f"models--{repository.replace('/', '--')}"

    def _snapshot(self, repository: str, commit: str) -> Path:
        return self._repository(repository) / "snapshots" / commit

    def _commit(self, repository: str, revision: str) -> str | None:
        """The commit that a revision meant when it was last asked for."""
        if _COMMIT.fullmatch(revision):
            return revision
        try:
            commit = (self._repository(repository) / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if re.fullmatch(r"[\w.-]+", commit) else None


def _replace_with_link(path: Path, blob: Path) -> None:
    """A relative link if the file system has links, else a copy; never half of either."""
    temporary = _temporary_beside(path)
    try:
        os.symlink(os.path.relpath(blob, path.parent), temporary)
    except OSError:
        shutil.copyfile(blob, temporary)
    os.replace(temporary, path)


def _temporary_beside(path: Path) -> Path:
    """A name in the same directory that nobody else uses."""
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    os.close(descriptor)
    os.unlink(name)
    return Path(name)

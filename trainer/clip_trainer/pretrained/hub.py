"""The Hugging Face hub over plain HTTP: what a file is, its bytes, what else a repository holds."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from clip_trainer.pretrained import httperrors
from clip_trainer.pretrained.digests import Expected, check, expected_from_etag
from clip_trainer.pretrained.download import DownloadProgress, Progress, download, ignore
from clip_trainer.pretrained.httpclient import Answer, HttpClient, offline_error
from clip_trainer.pretrained.hubcache import CachedFile, HubCache
from clip_trainer.pretrained.locations import HUB_PREFIX, MAIN, checked_filename, checked_repository, checked_revision
from clip_trainer.pretrained.locks import file_lock
from clip_trainer.pretrained.origins import HttpOrigin, bare_etag
from clip_trainer.pretrained.partial import translated
from clip_trainer.pretrained.patience import Patience, TransientError
from clip_trainer.pretrained.settings import FetchSettings
from clipctl.contract.errors import CorruptError

_log = logging.getLogger(__name__)
_SAFE = re.compile(r"[\w.-]+")
_INFO_LIMIT = 32 << 20  # bytes of a description of a repository
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class HubFile:
    """What the hub says of a file."""

    commit: str
    etag: str
    size: int | None

    @property
    def expected(self) -> Expected:
        """What its content must be."""
        return expected_from_etag(self.etag, self.size)


@dataclass(frozen=True)
class RepositoryInfo:
    """What the hub says of a repository."""

    commit: str
    files: tuple[str, ...]
    licence: str | None  # as the model card names it, for example `mit`


class Hub:
    """Files of the hub, through the cache that all tools share.

    Args:
        settings: endpoint, token, cache, patience.
        progress: told how far downloads are.
    """

    def __init__(self, settings: FetchSettings, progress: Progress = ignore) -> None:
        self._settings, self._progress = settings, progress
        self._client = HttpClient(settings)
        self._cache = HubCache(settings.hub_cache)

    def fetch(self, repository: str, filename: str, revision: str | None = None, *, refresh: bool = False) -> Path:
        """The path of a file; fetched if it is not in the cache.

        Args:
            repository: `org/name`.
            filename: path inside of the repository.
            revision: branch, tag or commit; default `main`. A commit never changes; what a branch meant when it was
                last fetched is used until `refresh`.
            refresh: ask the hub again what the revision means.

        Raises:
            NotInRepositoryError: the repository has no such file.
            PermissionDeniedError: private, gated, or a bad token.
            ClipError: see `download`.
        """
        return self.fetch_first(repository, [filename], revision, refresh=refresh)

    def fetch_first(
        self, repository: str, filenames: Iterable[str], revision: str | None = None, *, refresh: bool = False
    ) -> Path:
        """The first of several files that the repository has; those in the cache come first."""
        names, wanted = list(filenames), checked_revision(revision) or MAIN
        if not refresh or self._settings.offline:
            cached = self.cached_first(repository, names, wanted)
            if cached is not None:
                return cached
        if self._settings.offline:
            raise offline_error(f"{HUB_PREFIX}{repository}/{names[-1]}")
        for name in names[:-1]:
            try:
                return self._download(repository, name, wanted)
            except httperrors.NotInRepositoryError:
                continue
        return self._download(repository, names[-1], wanted)

    def cached_first(self, repository: str, filenames: Iterable[str], revision: str | None = None) -> Path | None:
        """The first of several files that is in the cache and undamaged; no connection is opened."""
        for name in filenames:
            cached = self._verified(checked_repository(repository), revision or MAIN, checked_filename(name))
            if cached is not None:
                return cached.path
        return None

    def info(self, repository: str, revision: str | None = None) -> RepositoryInfo:
        """Commit, file names and licence. Raises as `fetch` does."""
        path = f"/api/models/{checked_repository(repository)}/revision/{quote(revision or MAIN, safe='')}"
        answer = self._request("GET", self._settings.endpoint + path)
        try:
            data = b"".join(_limited(answer.chunks(), _INFO_LIMIT))
        finally:
            answer.close()
        try:
            raw = json.loads(data)
            files = tuple(str(item["rfilename"]) for item in raw.get("siblings", ()))
            licence = (raw.get("cardData") or {}).get("license")
            return RepositoryInfo(str(raw["sha"]), files, licence if isinstance(licence, str) else None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise httperrors.of_server(f"{self._settings.endpoint}{path}: the answer makes no sense") from error

    def describe(self, repository: str, filename: str, revision: str) -> HubFile:
        """What the hub says of a file, by one HEAD request."""
        url = self._url(repository, filename, revision)
        # The answer that counts is the hub's own; the storage it redirects to knows nothing of commits.
        answer = self._request("HEAD", url, leave_host=False)
        answer.close()
        etag = answer.first_header("X-Linked-Etag") or answer.first_header("ETag")
        commit = answer.first_header("X-Repo-Commit")
        size = answer.first_header("X-Linked-Size") or answer.headers.get("Content-Length") or ""
        if answer.first_header("X-Linked-Etag") is None and answer.status >= 300:
            size = ""  # the length of a redirect says nothing
        found = bare_etag(etag or "")
        if not _SAFE.fullmatch(found) or not _SAFE.fullmatch(commit or ""):
            raise httperrors.of_server(f"{httperrors.shown_url(url)} does not answer as a hub does")
        return HubFile(commit or "", found, int(size) if size.isdecimal() else None)

    def _verified(self, repository: str, revision: str, filename: str) -> CachedFile | None:
        """The cached file if its content is what its name in the cache says."""
        cached = self._cache.find(repository, revision, filename)
        if cached is None:
            return None
        etag = cached.path.resolve().name
        try:
            check(cached.path, cached.expected, str(cached.path))
        except FileNotFoundError:
            return None  # another process has just found that it is damaged
        except CorruptError as error:
            if self._settings.offline:
                raise CorruptError(error.problem, hint="Fetch it again where there is a network.") from error
            return self._replaced(repository, cached, etag, error.problem)
        return cached

    def _replaced(self, repository: str, cached: CachedFile, etag: str, problem: str) -> CachedFile | None:
        """A file that was damaged, if another process has fetched it again by now; otherwise it is forgotten."""
        waiting = DownloadProgress(cached.path.name, 0, None, waiting=True)
        with file_lock(self._cache.lock(repository, etag), lambda: self._progress(waiting)):
            if self._is_whole(cached.path, cached.expected):
                return cached
            _log.warning("%s It is fetched again.", problem)
            self._cache.forget(cached)
        return None

    def _download(self, repository: str, filename: str, revision: str) -> Path:
        described = self.describe(repository, filename, revision)
        blob = self._cache.blob(repository, described.etag)
        waiting = DownloadProgress(filename, 0, described.size, waiting=True)
        with translated(blob):
            blob.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self._cache.lock(repository, described.etag), lambda: self._progress(waiting)):
            if not self._is_whole(blob, described.expected):
                url = self._url(repository, filename, described.commit)
                origin = HttpOrigin(self._client, url, self._authorization())
                download(origin, blob, described.expected, self._settings, self._progress)
            path = self._cache.link(repository, described.commit, filename, described.etag)
            self._cache.remember(repository, revision, described.commit)
        return path

    @staticmethod
    def _is_whole(blob: Path, expected: Expected) -> bool:
        try:
            check(blob, expected, str(blob))
        except (FileNotFoundError, CorruptError):
            return False
        return True

    def _request(self, method: str, url: str, *, leave_host: bool = True) -> Answer:
        patience = Patience(self._settings.give_up_after, self._settings.clock)
        while True:
            try:
                return self._client.request(method, url, self._authorization(), leave_host=leave_host)
            except TransientError as error:
                patience.wait_after(error)

    def _url(self, repository: str, filename: str, revision: str) -> str:
        return f"{self._settings.endpoint}/{repository}/resolve/{quote(revision, safe='')}/{quote(filename)}"

    def _authorization(self) -> dict[str, str]:
        """The token, for the hub itself, and never in the clear over a network."""
        parts = urlsplit(self._settings.endpoint)
        safe = parts.scheme == "https" or parts.hostname in _LOOPBACK
        return {"Authorization": f"Bearer {self._settings.token}"} if self._settings.token and safe else {}


def _limited(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """The first `limit` bytes or a little more: nobody's description of a repository is larger."""
    count = 0
    for chunk in chunks:
        yield chunk
        count += len(chunk)
        if count >= limit:
            return

"""Files fetched by address, from web servers and object stores, each with a note of its sha256."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from clip_trainer.pretrained.digests import Expected, check, digest_in_url
from clip_trainer.pretrained.download import DownloadProgress, Progress, download, ignore
from clip_trainer.pretrained.httpclient import HttpClient, offline_error
from clip_trainer.pretrained.httperrors import shown_url
from clip_trainer.pretrained.locations import STORE_SCHEMES, UrlLocation
from clip_trainer.pretrained.locks import file_lock
from clip_trainer.pretrained.origins import HttpOrigin, Origin, StoreOrigin
from clip_trainer.pretrained.partial import translated
from clip_trainer.pretrained.patience import Patience, TransientError
from clip_trainer.pretrained.settings import FetchSettings
from clipctl.contract.errors import CorruptError, MissingError

_log = logging.getLogger(__name__)
_SHA256_LENGTH = 64


def fetch_url(
    location: UrlLocation,
    settings: FetchSettings,
    *,
    sha256: str | None = None,
    sidecar: bool = False,
    refresh: bool = False,
    progress: Progress = ignore,
) -> Path:
    """The path of a file; fetched if it is not in the cache.

    Args:
        location: the address.
        settings: cache, patience, offline mode.
        sha256: of the file, all digits or the first 8 or more. Default: what the address itself says, if it does.
        sidecar: if no digest is known, look for one in the file `NAME.sha256` beside it.
        refresh: fetch it even if it is there.
        progress: told how far the download is.

    Raises:
        MissingError: offline and not in the cache, or the server has no such file.
        CorruptError: the content has another digest.
        ClipError: see `download`.
    """
    known = sha256 or digest_in_url(location.url)
    target = cached_path(location, settings, known)
    if refresh or not _is_whole(target, known, settings.offline):
        if settings.offline:
            raise offline_error(shown_url(location.url))
        _fetch(location, target, _Wanted(known, sidecar and not known, refresh), settings, progress)
    return target


def cached_path(location: UrlLocation, settings: FetchSettings, sha256: str | None) -> Path:
    """Where the file is kept: under its own name if a digest tells it from others, as OpenCLIP has it, else in a
    directory that stands for the whole address.
    """
    if sha256:
        return settings.url_cache / location.name
    return settings.url_cache / hashlib.sha256(location.url.encode()).hexdigest()[:16] / location.name


@dataclass(frozen=True)
class _Wanted:
    sha256: str | None
    sidecar: bool
    refresh: bool


def _fetch(location: UrlLocation, target: Path, wanted: _Wanted, settings: FetchSettings, progress: Progress) -> None:
    with translated(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    waiting = DownloadProgress(target.name, 0, None, waiting=True)
    with file_lock(target.with_name(f".{target.name}.lock"), lambda: progress(waiting)):
        if not wanted.refresh and _is_whole(target, wanted.sha256, offline=False):
            return
        published = _published_digest(location, settings) if wanted.sidecar else wanted.sha256
        digest = download(_origin(location.url, settings), target, Expected(sha256=published), settings, progress)
        with translated(target):
            _note(target).write_text(f"{digest}  {target.name}\n", encoding="utf-8")


def _published_digest(location: UrlLocation, settings: FetchSettings) -> str | None:
    """What `NAME.sha256` beside the file says, in the format of `sha256sum`; None if there is no such file."""
    parts = urlsplit(location.url)
    origin = _origin(urlunsplit(parts._replace(path=f"{parts.path}.sha256")), settings)
    patience = Patience(settings.give_up_after, settings.clock)
    while True:
        try:
            opened = origin.open(0, None)
            try:
                text = b"".join(itertools.islice(opened.chunks, 1))
            finally:
                opened.close()
        except MissingError:
            return None
        except TransientError as error:
            patience.wait_after(error)
            continue
        digest = text[:_SHA256_LENGTH].decode("ascii", errors="replace").lower()
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise CorruptError(f"{origin.where} holds no sha256.", hint="Write it with `sha256sum FILE`.")
        return digest


def _origin(url: str, settings: FetchSettings) -> Origin:
    if urlsplit(url).scheme in STORE_SCHEMES:
        return StoreOrigin(url, settings)
    return HttpOrigin(HttpClient(settings), url)


def _is_whole(target: Path, known: str | None, offline: bool) -> bool:
    """Whether the file is there and has its digest: the published one, or that of the moment it arrived."""
    if not target.is_file():
        return False
    try:
        check(target, Expected(sha256=known or _noted(target)), str(target))
    except CorruptError as error:
        if offline:
            raise CorruptError(error.problem, hint="Fetch it again where there is a network.") from error
        _log.warning("%s It is fetched again.", error.problem)
        return False
    return True


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _noted(target: Path) -> str | None:
    try:
        return _note(target).read_text(encoding="utf-8").split()[0]
    except (OSError, UnicodeDecodeError, IndexError):
        return None

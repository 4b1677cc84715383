"""A mirror of our own: plain files below one base address, on a web server or in object storage.

`CLIPCTL_MIRROR` replaces every other source. A file of the hub lies at `BASE/ORG/NAME/resolve/REVISION/FILE`, a file
with an address at `BASE/HOST/PATH`; beside it may lie `FILE.sha256`, in the format of `sha256sum`. Nothing else is
needed, so `clipctl models pull` and a copy command make a mirror.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit

from clip_trainer.pretrained.digests import digest_in_url
from clip_trainer.pretrained.download import Progress, ignore
from clip_trainer.pretrained.httpclient import OfflineError
from clip_trainer.pretrained.locations import (
    MAIN,
    STORE_SCHEMES,
    UrlLocation,
    checked_filename,
    checked_repository,
    checked_revision,
)
from clip_trainer.pretrained.settings import FetchSettings
from clip_trainer.pretrained.urlcache import cached_path, fetch_url
from clipctl.contract.errors import MissingError, SpecError


class Mirror:
    """Files of the mirror that `settings` names."""

    def __init__(self, settings: FetchSettings, progress: Progress = ignore) -> None:
        assert settings.mirror is not None
        if urlsplit(settings.mirror).scheme not in STORE_SCHEMES | {"http", "https"}:
            raise SpecError(
                f"CLIPCTL_MIRROR is {settings.mirror[:120]!r}, which is no address.",
                hint="Write https://…, http://… or s3://….",
            )
        self._base, self._settings, self._progress = settings.mirror, settings, progress

    def fetch_first(
        self, repository: str, filenames: Iterable[str], revision: str | None = None, *, refresh: bool = False
    ) -> Path:
        """The first of several files of a hub repository that the mirror has; those in the cache come first.

        Raises:
            MissingError: it has none of them.
            ClipError: see `fetch_url`.
        """
        folder = f"{self._base}/{checked_repository(repository)}/resolve/{quote(checked_revision(revision) or MAIN)}"
        places = [UrlLocation(f"{folder}/{quote(checked_filename(name))}") for name in filenames]
        places.sort(key=lambda place: not cached_path(place, self._settings, None).is_file())
        for place in places[:-1]:
            try:
                return self._fetch(place, None, refresh)
            except OfflineError:
                break
            except MissingError:
                continue
        return self._fetch(places[-1], None, refresh)

    def fetch_url(self, url: str, sha256: str | None = None, *, refresh: bool = False) -> Path:
        """The mirror's copy of a file with an address. Raises as the function of this name does."""
        parts = urlsplit(url)
        place = UrlLocation(f"{self._base}/{parts.hostname}{parts.path}")
        return self._fetch(place, sha256 or digest_in_url(url), refresh)

    def _fetch(self, place: UrlLocation, sha256: str | None, refresh: bool) -> Path:
        return fetch_url(place, self._settings, sha256=sha256, sidecar=True, refresh=refresh, progress=self._progress)

"""Weights by tag or location, wherever they are: the entry point of the trainer and of `clipctl models`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_trainer.pretrained import registry
from clip_trainer.pretrained.download import Progress, ignore
from clip_trainer.pretrained.hub import Hub
from clip_trainer.pretrained.locations import (
    HubLocation,
    PathLocation,
    UrlLocation,
    is_location,
    parse_location,
    weights_in,
)
from clip_trainer.pretrained.mirror import Mirror
from clip_trainer.pretrained.registry import PretrainedEntry
from clip_trainer.pretrained.settings import FetchSettings, from_environment
from clip_trainer.pretrained.urlcache import fetch_url
from clipctl.contract.errors import ClipError, MissingError, SpecError

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""File names of weights in a hub repository that names none, the safe format first."""


@dataclass(frozen=True)
class Fetched:
    """Weights that are on this machine."""

    path: Path
    source: str  # where they came from, as a person would write it
    entry: PretrainedEntry | None  # of the registry, if they were named by tag


class Fetcher:
    """Brings weights to this machine.

    Args:
        settings: caches, mirror, patience, offline mode. Default: those of the environment.
        progress: told how far downloads are.
        refresh: ask again for what is in the cache already.
        prefer_hf_hub: take weights that have both a hub repository and an address from the hub.
    """

    def __init__(
        self,
        settings: FetchSettings | None = None,
        progress: Progress = ignore,
        *,
        refresh: bool = False,
        prefer_hf_hub: bool = True,
    ) -> None:
        self.settings = settings or from_environment()
        self._progress, self._refresh, self._prefer_hf_hub = progress, refresh, prefer_hf_hub

    def weights(self, model: str | None, source: str, *, sha256: str | None = None) -> Fetched:
        """Weights by tag of `model`, or by location.

        Args:
            model: name of the model; None if `source` cannot be a tag.
            source: tag, `hf-hub:org/repo[@revision][/file]`, `local-dir:PATH`, address or path.
            sha256: of the file, for locations.

        Raises:
            MissingError: neither a tag of the model nor a place; or nothing is there.
            ClipError: see `download`.
        """
        if model is not None and registry.is_pretrained_cfg(registry.canonical_model(model), source):
            return self.entry(registry.entry(model, source))
        if not is_location(source):
            _raise_unknown(model, source)
        return Fetched(self.location(source, sha256=sha256), source, None)

    def entry(self, entry: PretrainedEntry) -> Fetched:
        """Weights of the registry. Raises as `weights` does."""
        repository, filename = entry.repository
        if not repository or (entry.url and not self._prefer_hf_hub):
            return Fetched(self.url(entry.url, entry.sha256), entry.url, entry)
        try:
            path = self.hub(HubLocation(repository, None, filename))
        except ClipError as error:
            if entry.url and not self.settings.offline:
                error.hint = f"{error.hint} The same weights are at {entry.url}: `clipctl models pull --from-url`."
            raise
        return Fetched(path, f"hf-hub:{repository}/{path.name}", entry)

    def location(self, text: str, *, sha256: str | None = None) -> Path:
        """The file at a location. Raises as `weights` does."""
        place = parse_location(text)
        if isinstance(place, HubLocation):
            return self.hub(place)
        if isinstance(place, UrlLocation):
            return self.url(place.url, sha256)
        return _local(place)

    def hub(self, place: HubLocation) -> Path:
        """Weights of a hub repository: the file it names, in the safe format if there is one, else a standard name."""
        return self.first_file(place.repository, candidates(place.filename), place.revision)

    def file(self, repository: str, filename: str, revision: str | None = None) -> Path:
        """Any file of a hub repository, such as its configuration or a tokenizer."""
        return self.first_file(repository, (filename,), revision)

    def first_file(self, repository: str, filenames: tuple[str, ...], revision: str | None = None) -> Path:
        """The first of several files that a hub repository has."""
        hub = Hub(self.settings, self._progress)
        if self.settings.mirror is None:
            return hub.fetch_first(repository, filenames, revision, refresh=self._refresh)
        cached = None if self._refresh else hub.cached_first(repository, filenames, revision)
        if cached is not None:
            return cached
        mirror = Mirror(self.settings, self._progress)
        return mirror.fetch_first(repository, filenames, revision, refresh=self._refresh)

    def url(self, url: str, sha256: str | None = None) -> Path:
        """A file by address; addresses of web servers are looked up in the mirror, if there is one."""
        if self._is_mirrored(url):
            return Mirror(self.settings, self._progress).fetch_url(url, sha256, refresh=self._refresh)
        place = parse_location(url)
        assert isinstance(place, UrlLocation)
        return fetch_url(place, self.settings, sha256=sha256, refresh=self._refresh, progress=self._progress)

    def _is_mirrored(self, url: str) -> bool:
        mirror = self.settings.mirror
        return mirror is not None and url.startswith(("http://", "https://")) and not url.startswith(f"{mirror}/")


def fetch(
    model: str | None,
    source: str,
    cache_dir: str | Path | None = None,
    *,
    sha256: str | None = None,
    refresh: bool = False,
    progress: Progress = ignore,
) -> Path:
    """The path of weights on this machine, fetched and verified if need be.

    Args:
        model: name of the model whose tags `source` may be one of; None for locations only.
        source: tag, `hf-hub:org/repo[@revision][/file]`, `local-dir:PATH`, `https://`, `s3://` or a path.
        cache_dir: where fetched files are kept. Default: the caches that OpenCLIP and the hub's own tools use.
        sha256: what a location's file must have, all 64 digits or the first 8 or more.
        refresh: ask again for what is in the cache already.
        progress: told how far downloads are.

    Raises:
        MissingError, CorruptError, PermissionDeniedError, UnavailableError, CannotCreateError, SpecError
    """
    fetcher = Fetcher(from_environment(cache_dir), progress, refresh=refresh)
    return fetcher.weights(model, source, sha256=sha256).path


def fetch_hub_file(
    repository: str, filename: str, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """The path of any file of a hub repository. Raises as `fetch` does."""
    return Fetcher(from_environment(cache_dir)).file(repository, filename, revision)


def candidates(filename: str = "") -> tuple[str, ...]:
    """Names under which a hub repository may have weights, best first: safetensors before what needs unpickling."""
    if filename in ("", WEIGHTS[-1]):
        return WEIGHTS
    if filename.endswith((".bin", ".pth")):
        return filename[:-4] + ".safetensors", filename
    return (filename,)


def _local(place: PathLocation) -> Path:
    if place.path.is_dir():
        return weights_in(place.path)
    if not place.path.is_file():
        raise MissingError(f"There is no file {place.path}.", hint="Check the path.")
    return place.path


def _raise_unknown(model: str | None, source: str) -> None:
    if model is None:
        raise SpecError(
            f"{source[:120]!r} is neither a file nor an address.",
            hint="Give a path, hf-hub:org/repo, https:// or s3://.",
        )
    try:
        registry.entry(model, source)
    except MissingError as error:
        raise MissingError(error.problem, hint=f"{error.hint} There is no file of this name either.") from None

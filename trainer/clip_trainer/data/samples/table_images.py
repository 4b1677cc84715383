"""The image files that a table names: by path or by URL."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from urllib.parse import unquote

from clip_trainer.data.storage.location import Location
from clip_trainer.data.storage.source import Source, SourceCounters, open_source
from clipctl.contract.errors import CorruptError, MissingError, PermissionDeniedError, SpecError, UnavailableError

_FILE = "file://"
_SCHEMES = frozenset({"http", "https", "s3"})  # a table may come from anywhere: it must not choose how it is read
_SOURCES_KEPT = 256  # with their connections; tables that name more hosts, or a query for each image, are rare
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


class TableImages:
    """Reads image files; safe to share between threads.

    Args:
        root: directory or URL that relative names start from.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.expanduser(root.removeprefix(_FILE)).rstrip("/") or "/"
        self._sources: dict[str, Source] = {}
        self._own = SourceCounters()  # bytes of all files, requests for local ones
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes | None:
        """A whole file, or None if there is none, or if the name cannot be one.

        Args:
            name: an `http`, `https` or `s3` URL, an absolute path, or a name below the root.

        Raises:
            PermissionDeniedError, UnavailableError: it cannot be read.
        """
        address = name.removeprefix(_FILE)
        if "://" in address:
            scheme, base, path = _parts(address)
            return self._load(base, path) if scheme in _SCHEMES else None
        if "://" in self._root and not address.startswith("/"):
            return self._load(self._root, address)
        return self._read_file(Path(self._root) / address)

    def snapshot(self) -> dict[str, int]:
        """See `samples.SampleReader`."""
        with self._lock:
            remote = [source.counters for source in self._sources.values()]
        return {
            "bytes_read": self._own.bytes_read,
            "requests": self._own.requests + sum(counters.requests for counters in remote),
            "retries": sum(counters.retries for counters in remote),
            "cache_hits": 0,
            "cache_misses": 0,
        }

    def _load(self, base: str, path: str) -> bytes | None:
        try:
            data = self._source(base).load(path)
        except (MissingError, CorruptError):  # corrupt: a name that leads out of the place, such as one with `..`
            return None
        except (SpecError, ValueError):  # no address at all
            return None
        self._own.add(bytes_read=len(data))
        return data

    def _source(self, base: str) -> Source:
        with self._lock:
            if base in self._sources:
                return self._sources[base]
            source = open_source(Location(base.partition("://")[0], base, None))
            if len(self._sources) < _SOURCES_KEPT:
                self._sources[base] = source
            return source

    def _read_file(self, path: Path) -> bytes | None:
        try:
            data = path.read_bytes()
        except ValueError:  # a zero byte, half a surrogate pair
            return None
        except PermissionError:
            raise PermissionDeniedError(f"{path} may not be read.", hint="Check the owner and mode.") from None
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise UnavailableError(f"{path} cannot be read: {error.strerror}.", hint="Check the disk.") from None
        self._own.add(requests=1, bytes_read=len(data))
        return data


def _parts(address: str) -> tuple[str, str, str]:
    """Scheme, base and path of a URL. Sources quote paths themselves; a query belongs to their base."""
    scheme, _, rest = address.partition("://")
    host, _, path = rest.partition("/")
    if scheme == "s3":
        return scheme, f"{scheme}://{host}", path
    path, question, query = path.partition("#")[0].partition("?")
    return scheme, f"{scheme}://{host}{question}{query}", unquote(path)

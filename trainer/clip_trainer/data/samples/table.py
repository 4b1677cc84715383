"""A table of image-caption pairs as a set of samples, read where it lies: no packing, no index."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from urllib.parse import unquote

import xxhash

from clip_trainer.data.sample_set import Need, ReadHints
from clip_trainer.data.samples.packed_texts import PackedTexts
from clip_trainer.data.samples.table_images import TableImages
from clip_trainer.data.samples.table_rows import read_rows
from clip_trainer.data.shards.sample import RawSample, UnusableSample
from clip_trainer.data.storage.location import Location
from clip_trainer.data.storage.source import open_source
from clipctl.contract.errors import CorruptError, MissingError
from clipctl.contract.sections import ColumnsSection

ROWS_PER_SHARD = 1000
"""Rows of a virtual shard: neighbours in the table are often neighbours on the disk."""

_PROBED = 8  # rows whose images are looked for before a run starts
_IMAGE = "jpg"  # the member that holds the image: files have any names, and decoders look at the bytes


class RowSample(RawSample):
    """A row of a table and its image file."""

    def image(self) -> bytes:
        """The encoded image. Raises UnusableSample if there is none."""
        if _IMAGE not in self.members:
            raise UnusableSample("missing file" if self.key else "no image")
        return self.members[_IMAGE]


class TableSamples:
    """The rows of a table in virtual shards; implements `samples.SampleSet`.

    The cells that are used stay in the memory of every rank. The identity is a digest of them, whatever the kind of
    table; the images' bytes are not part of it.

    Args:
        url: path or URL of a `.csv`, `.tsv` or `.parquet` file.
        columns: what to read.

    Raises:
        SpecError, CorruptError, MissingError: see `table_rows.read_rows`; or the table does not exist or has no rows.
        PermissionDeniedError, UnavailableError: from the store.
    """

    def __init__(self, url: str, columns: ColumnsSection) -> None:
        self.url = url
        scheme, directory, name = _split(url)
        self._root = columns.root or directory
        self._images, self._captions = PackedTexts(), PackedTexts()
        digest = xxhash.xxh3_128()
        far = "://" in self._root.removeprefix("file://")
        for row in read_rows(io.BytesIO(open_source(Location(scheme, directory, None)).load(name)), url, columns):
            self._images.append(row.image)
            self._captions.append(row.caption)
            digest.update(f"{len(row.image)}:{len(row.caption)}:{row.image}{row.caption}".encode("utf-8", "replace"))
            far = far or "://" in row.image
        if not len(self._images):
            raise MissingError(f"{url} has no rows.", hint="Check data.train.")
        self.remote = far
        self.identity = digest.hexdigest()

    @property
    def counts(self) -> Sequence[int]:
        """Rows of each virtual shard."""
        whole, rest = divmod(len(self._images), ROWS_PER_SHARD)
        return [ROWS_PER_SHARD] * whole + [rest] * (rest > 0)

    def shard_name(self, shard: int) -> str:
        """The table and the first of the rows."""
        return f"{self.url} from row {shard * ROWS_PER_SHARD + 1}"

    def require(self, *needs: Need) -> None:
        """Look for the first images, since a wrong root makes all of them missing.

        Raises:
            CorruptError: a class is needed.
            MissingError: none of the first images exists.
        """
        if "class" in needs:
            raise CorruptError(f"{self.url} has no classes.", hint="Pack it with `clipctl data pack`.")
        images = TableImages(self._root)
        first = [self._images[row] for row in range(min(_PROBED, len(self._images)))]
        if "image" in needs and all(images.read(name) is None for name in first if name):
            raise MissingError(
                f"{self.url}: none of the first {len(first)} images is there, for example {first[0]!r} below "
                f"{self._root!r}.",
                hint="Set data.columns.root to the directory or URL that the paths start from.",
            )

    def open_reader(self, hints: ReadHints) -> TableReader:
        """A reader of rows; files are read whole, so the hints do not matter."""
        return TableReader(self._images, self._captions, TableImages(self._root))


class TableReader:
    """Reads rows with their images; implements `samples.SampleReader`."""

    def __init__(self, images: PackedTexts, captions: PackedTexts, files: TableImages) -> None:
        self._images, self._captions, self._files = images, captions, files

    def read(self, shard: int, index: int) -> RowSample:
        """One row. A missing image shows when it is asked for: one file of millions must not end a run."""
        row = shard * ROWS_PER_SHARD + index
        name = self._images[row]
        image = self._files.read(name) if name else None
        return RowSample(name, {"txt": self._captions[row].encode(), **({} if image is None else {_IMAGE: image})})

    def snapshot(self) -> dict[str, int]:
        """See `samples.SampleReader`."""
        return self._files.snapshot()


def _split(url: str) -> tuple[str, str, str]:
    """Scheme ("" for local paths), directory and name of a table."""
    path = os.path.expanduser(url.removeprefix("file://"))
    scheme = path.partition("://")[0] if "://" in path else ""
    directory, slash, name = path.rpartition("/")
    if scheme in ("http", "https"):
        name = unquote(name)  # sources quote names themselves
    return scheme, directory or ("/" if slash else "."), name

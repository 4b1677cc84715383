"""A folder with one sub-folder of images for each class, as ImageNet and its variants are distributed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from clip_trainer.data.loading.batch import Replacement
from clip_trainer.data.loading.eval_stream import EvalChunk
from clip_trainer.data.storage.location import parse_location
from clip_trainer.vision import UndecodableImage, decode_image
from clip_trainer.vision.decode import Pixels
from clipctl.contract.errors import CorruptError, MissingError, PermissionDeniedError, SpecError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

Labelled = tuple[str, int]
"""Path of an image relative to the folder, and its class number."""


def scan(folder: str) -> list[Labelled]:
    """All images of the folder with their class numbers, in order of class folder and path.

    Sub-folders in sorted order are classes 0, 1, ...; if all their names are numbers, those are the class numbers
    (ImageNet-V2, whose `10` would else come before `2`). Images may lie deeper inside; other files do not count.

    Raises:
        MissingError: there is no such folder, or no image in it.
        SpecError: it is a remote URL.
    """
    root = local_folder(folder)
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except PermissionError as error:
        raise PermissionDeniedError(f"{folder} may not be read.", hint="Check the owner and mode.") from error
    except OSError as error:
        raise MissingError(f"{folder} cannot be read: {error.strerror}.", hint="Check eval.*.folder.") from error
    numbers = _class_numbers(names)
    found = [(path, numbers[name]) for name in names for path in _images(root, name)]
    if not found:
        raise MissingError(f"{folder} has no images in sub-folders.", hint="It needs one sub-folder for each class.")
    return found


def local_folder(folder: str) -> Path:
    """The path of a folder given as path or file:// URL. Raises SpecError for a remote one."""
    location = parse_location(folder)
    if location.scheme:
        raise SpecError(
            f"{folder} is remote; folders of classes are read from a mounted file system.",
            hint="Pack it into shards with `clipctl data pack`, and give them as `data`.",
        )
    return Path(location.base)


def _class_numbers(names: Sequence[str]) -> dict[str, int]:
    if all(name.isascii() and name.isdigit() for name in names):
        numbers = {name: int(name) for name in names}
        if len(set(numbers.values())) < len(names):
            raise CorruptError("two class folders have the same number.", hint="Such as 7 and 007.")
        return numbers
    return {name: number for number, name in enumerate(names)}


def _images(root: Path, name: str) -> list[str]:
    found = []
    for directory, _, files in os.walk(root / name, followlinks=True):
        inside = os.path.relpath(directory, root)
        found += [os.path.join(inside, file) for file in files if file.lower().endswith(SUFFIXES)]
    return sorted(found)


class FolderStream:
    """One rank's share of a folder: images i with i % world == rank, in order. Like `data.eval_stream.EvalStream`.

    Args:
        folder: where the paths begin.
        samples: all images, from `scan`.
        transform: pixels to uint8 [3, h, w].
        rank: this worker.
        world: number of workers.
        chunk: images handed out together.
        threads: threads that read and decode.

    Attributes:
        skipped: undecodable images, which are left out.
    """

    def __init__(
        self,
        folder: str,
        samples: Sequence[Labelled],
        *,
        transform: Callable[[Pixels], torch.Tensor],
        rank: int,
        world: int,
        chunk: int,
        threads: int = 2,
    ) -> None:
        self._root = local_folder(folder)
        self._samples, self._transform = samples, transform
        self._places = range(rank, len(samples), world)
        self._chunk, self._threads = chunk, threads
        self.skipped: list[Replacement] = []

    def __iter__(self) -> Iterator[EvalChunk]:
        """Yield chunks in order."""
        waiting: deque[tuple[int, Future[torch.Tensor | str]]] = deque()
        places = iter(self._places)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="clip-folder") as pool:
            try:
                while True:
                    while len(waiting) < 2 * self._chunk and (place := next(places, None)) is not None:
                        waiting.append((place, pool.submit(self._show, self._samples[place][0])))
                    if not waiting:
                        return
                    taken = [waiting.popleft() for _ in range(min(self._chunk, len(waiting)))]
                    yield from self._chunk_of([(place, future.result()) for place, future in taken])
            finally:
                pool.shutdown(cancel_futures=True)

    def _show(self, path: str) -> torch.Tensor | str:
        try:
            return self._transform(decode_image((self._root / path).read_bytes()))
        except UndecodableImage as error:
            return error.reason
        except OSError as error:
            raise MissingError(f"{self._root / path} cannot be read: {error.strerror}.") from error

    def _chunk_of(self, results: list[tuple[int, torch.Tensor | str]]) -> Iterator[EvalChunk]:
        for place, result in results:
            if isinstance(result, str):
                path = self._samples[place][0]
                self.skipped.append(Replacement(place, path, str(self._root / path), result, None))
        shown = [(place, image) for place, image in results if isinstance(image, torch.Tensor)]
        if shown:
            images, ids = torch.stack([image for _, image in shown]), [place for place, _ in shown]
            yield EvalChunk(images, [() for _ in ids], [self._samples[place][1] for place in ids], ids)

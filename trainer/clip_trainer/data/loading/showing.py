"""From a turn of the order to an image and a caption: read, decode, augment; and what to do about bad samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from clip_trainer.data.loading.activity import Slot
from clip_trainer.data.loading.batch import Replacement
from clip_trainer.data.loading.budget import MemoryBudget
from clip_trainer.data.order.base import Order, SampleRef
from clip_trainer.data.order.prp import derive_key
from clip_trainer.data.sample_set import SampleReader
from clip_trainer.data.samples.captions import ChooseCaption
from clip_trainer.data.shards.sample import RawSample, UnusableSample
from clipctl.contract.errors import CorruptError
from clipctl.contract.failpoints import failpoint

Image = npt.NDArray[np.uint8]
Transform = Callable[[Image, int], torch.Tensor]
"""Augments: uint8 [h, w, 3] and a 64-bit key to uint8 [3, H, W]. The key alone decides every random choice."""

Decode = Callable[[bytes], Image]
MAX_SUBSTITUTES = 64

# What a key of the order is used for; two uses of one key would correlate augmentation with caption choice.
_AUGMENT, _CAPTION = 1, 2


class Steps(NamedTuple):
    """What is done to a sample."""

    transform: Transform
    decode: Decode
    choose_caption: ChooseCaption
    undecodable: tuple[type[Exception], ...]
    """What `decode` raises on a bad image; any other exception is a bug."""


class Showing:
    """Shows the samples of an order, safely from several threads.

    Args:
        reader: of the samples.
        order: of the run.
        steps: what is done to each.
        shard_name: name of a shard by its number.
        budget: where decoded pixels are accounted for.
    """

    def __init__(
        self,
        reader: SampleReader,
        order: Order,
        steps: Steps,
        shard_name: Callable[[int], str],
        budget: MemoryBudget,
    ) -> None:
        self._reader, self._order, self._steps = reader, order, steps
        self._shard_name, self._budget = shard_name, budget

    def read(self, ref: SampleRef) -> RawSample:
        """The stored sample of a turn. Raises what `SampleReader.read` raises."""
        failpoint("data.read_sample")
        return self._reader.read(ref.shard, ref.index_in_shard)

    def show(
        self, turn: int, ref: SampleRef, sample: RawSample, row: Image, slot: Slot
    ) -> tuple[str, list[Replacement]]:
        """Fill one row of a batch with the image of a turn; a bad sample is replaced by another of its lane.

        Args:
            turn: number of the batch.
            ref: whose turn it is.
            sample: what `read` found for it.
            row: uint8 [H, W, 3] to write to.
            slot: where to say what is being done.

        Returns:
            The caption, and what was replaced.

        Raises:
            CorruptError: so many samples in a row are bad that the data set itself must be.
        """
        failures: list[Replacement] = []
        used = ref
        for attempt in range(1, MAX_SUBSTITUTES + 1):
            slot.begin("decode", turn, used)
            try:
                caption = self._fill(used, sample, row)
            except UnusableSample as error:
                shard = self._shard_name(used.shard)
                failures.append(Replacement(used.sample_id, sample.key, shard, error.reason, None))
            else:
                return caption, [failure._replace(used_id=used.sample_id) for failure in failures]
            if attempt < MAX_SUBSTITUTES:
                used = self._order.substitute(ref, attempt)
                slot.begin("read", turn, used)
                sample = self.read(used)
        first = failures[0]
        raise CorruptError(
            f"{len(failures)} samples in a row cannot be used, from {first.key!r} of shard {first.shard} on "
            f"({first.reason}).",
            hint="Check that the shards hold images and captions: `clipctl data verify --deep`.",
        )

    def _fill(self, ref: SampleRef, sample: RawSample, row: Image) -> str:
        key = self._order.key(ref)
        caption = self._steps.choose_caption(sample, derive_key(key, _CAPTION))
        try:
            image = self._steps.decode(sample.image())
        except self._steps.undecodable as error:
            raise UnusableSample(getattr(error, "reason", "undecodable image")) from error
        self._budget.charge(image.nbytes)
        try:
            shown = self._steps.transform(image, derive_key(key, _AUGMENT))
        finally:
            self._budget.charge(-image.nbytes)
        # numpy copies within this thread; torch would start a team of threads for as little as an image.
        np.copyto(row, shown.permute(1, 2, 0).numpy())
        return caption

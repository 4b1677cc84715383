"""Made-up samples: the same black image and caption again and again, as OpenCLIP's `--dataset-type synthetic`.

They teach nothing, but show what the training itself costs; and as all pairs are equal, the contrastive loss is exactly
the logarithm of the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from clip_trainer.data.sample_set import Need, ReadHints
from clip_trainer.data.shards.sample import RawSample
from clipctl.contract.errors import CorruptError

CAPTION = "Dummy caption"
_PER_SHARD = 10_000


class SyntheticSamples:
    """Equal samples; implements `samples.SampleSet` and `samples.SampleReader`.

    Args:
        samples: how many.
        image_size: height and width of the image, pixels.
    """

    remote = False

    def __init__(self, samples: int, image_size: tuple[int, int]) -> None:
        self.url = f"synthetic:{samples}"
        self.identity = self.url
        self.image_size = image_size
        self._samples = samples
        self._members = {"jpg": _black(*image_size), "txt": CAPTION.encode()}

    @property
    def counts(self) -> Sequence[int]:
        """Samples of each shard."""
        whole, rest = divmod(self._samples, _PER_SHARD)
        return [_PER_SHARD] * whole + [rest] * (rest > 0)

    def shard_name(self, shard: int) -> str:
        """There are no files; the number must do."""
        return f"{self.url} shard {shard}"

    def require(self, *needs: Need) -> None:
        """There are images and captions. Raises CorruptError if a class is needed."""
        if "class" in needs:
            raise CorruptError("Synthetic samples have no classes.")

    def open_reader(self, hints: ReadHints) -> SyntheticSamples:
        """Nothing has to be opened."""
        return self

    def read(self, shard: int, index: int) -> RawSample:
        """The sample."""
        return RawSample(f"{shard * _PER_SHARD + index}", self._members)

    def snapshot(self) -> dict[str, int]:
        """See `samples.SampleReader`; nothing is read."""
        return dict.fromkeys(("bytes_read", "requests", "retries", "cache_hits", "cache_misses"), 0)


def _black(height: int, width: int) -> bytes:
    import numpy as np
    import simplejpeg

    encoded: bytes = simplejpeg.encode_jpeg(np.zeros((height, width, 3), np.uint8))
    return encoded

"""`clipctl data bench`: how fast the user's own samples go through every stage of the loader, and through all of it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from clip_trainer.data.bench.parse import time_parsing
from clip_trainer.data.bench.timing import Clock, Timing, time_work
from clip_trainer.data.loading.loader import BatchLoader, Tokenize
from clip_trainer.data.order.base import Order, SampleRef
from clip_trainer.data.sample_set import ReadHints, SampleSet
from clip_trainer.data.shards.sample import RawSample, UnusableSample
from clip_trainer.vision import Transforms
from clip_trainer.vision.decode import Pixels, UndecodableImage, decode_image
from clipctl.contract.errors import CorruptError

WAITING_FOR_STORAGE = 8
"""Threads that read beside those that decode, where reading takes a round trip; as the loader has them."""

_HELD_LEAST, _HELD_SAMPLES = 64, 512
_HELD_BYTES = 256 << 20  # of encoded samples, and again of decoded ones
_CAPTIONS = 8  # tokenised together, as in the loader


@dataclass(frozen=True)
class Workload:
    """What to measure, and with what."""

    samples: SampleSet
    order: Order
    transforms: Transforms
    tokenize: Tokenize
    batch: int
    threads: int
    max_pixels: int
    seconds: float
    """For every stage."""
    batches: int | None = None
    """End the measurement of the whole loader after so many."""
    told: Callable[[str], None] = field(default=lambda stage: None)
    """Called with the name of every stage that begins."""

    def decode(self, data: bytes) -> Pixels:
        """Pixels of an encoded image."""
        return decode_image(data, max_pixels=self.max_pixels)


@dataclass(frozen=True)
class Measured:
    """The stages alone, then the loader as training uses it."""

    stages: dict[str, Timing]
    parse: Timing | None
    """The part of `read` that is not waiting for storage: verifying, taking apart. None where there are no shards."""
    end_to_end: Timing
    first_batch_seconds: float
    unusable: int
    """Of the samples that were held in memory for the stages after reading."""
    held: int
    image_side: float
    """Geometric mean of width and height over the images held, pixels."""


@dataclass
class _Held:
    """Samples in memory, so that each stage can be measured without the ones before it."""

    encoded: list[bytes] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    unusable: int = 0
    sides: list[float] = field(default_factory=list)


def bench(load: Workload) -> Measured:
    """Measure.

    Raises:
        CorruptError: none of the samples can be used, or what reading raises.
    """
    load.told("read")
    raw, read = _read(load)
    load.told("parse")
    parse = time_parsing(load.samples, threads=load.threads, seconds=load.seconds)
    held = _hold(load, raw)
    if not held.encoded:
        problem = f"none of the {len(raw)} samples that were read can be used."
        raise CorruptError(problem, hint=f"See what is wrong: `clipctl data check {load.samples.url}`.")
    stages = {"read": read}
    for name, work in _cpu_stages(load, held).items():
        load.told(name)
        stages[name] = work()
    load.told("all together")
    # Positions that the first stage has read are passed over: they would come from caches.
    start = -(-read.samples // load.batch) * load.batch
    end_to_end, first = _end_to_end(load, start)
    side = math.exp(sum(map(math.log, held.sides)) / len(held.sides))
    return Measured(stages, parse, end_to_end, first, held.unusable, len(raw), side)


def _read(load: Workload) -> tuple[list[RawSample], Timing]:
    """Read in the order of training; keep some of the samples."""
    hints = ReadHints(open_windows=load.order.lanes, window_samples=load.order.shuffle_block)
    reader = load.samples.open_reader(hints)
    before = reader.snapshot()["bytes_read"]
    kept: list[RawSample] = []
    budget = _HELD_BYTES

    def read(ref: SampleRef) -> int:
        nonlocal budget
        sample = reader.read(ref.shard, ref.index_in_shard)
        if len(kept) < _HELD_SAMPLES and budget > 0:
            kept.append(sample)
            budget -= _stored_bytes(sample)
        return 1

    threads = load.threads + (WAITING_FOR_STORAGE if load.samples.remote else 0)
    turns = _turns(load)
    timing = time_work(read, turns, threads=threads, seconds=load.seconds)
    received = reader.snapshot()["bytes_read"] - before
    while len(kept) < _HELD_LEAST and budget > 0:
        read(next(turns))
    return kept, replace(timing, samples=_fetched(timing.samples, received, kept), bytes=received)


def _fetched(used: int, received: int, some: list[RawSample]) -> int:
    """How many samples came from storage.

    A reader of remote shards first fills its windows with blocks, of which few samples are used yet; what was fetched
    ahead counts, or storage would look far slower than it is.

    Args:
        used: samples that were handed out.
        received: bytes from storage.
        some: of the samples that were handed out; the size of the others is taken from them.
    """
    size = sum(map(_stored_bytes, some)) / len(some)
    return max(used, int(received / size)) if size else used


def _stored_bytes(sample: RawSample) -> int:
    """About how large a sample is; its image is what counts."""
    try:
        return len(sample.image())
    except UnusableSample:
        return sum(map(len, sample.members.values()))


def _turns(load: Workload) -> Iterator[SampleRef]:
    """The samples in the order of training, without end."""
    for position in itertools.count(0, load.batch):
        yield from load.order.local_batch(position, load.batch, 0, 1)


def _hold(load: Workload, raw: list[RawSample]) -> _Held:
    """Sort out what cannot be used; decode as much of the rest as may be held."""
    held, budget = _Held(), _HELD_BYTES
    for sample in raw:
        try:
            caption, encoded = sample.captions()[0], sample.image()
            pixels = load.decode(encoded)
        except (UnusableSample, UndecodableImage):
            held.unusable += 1
            continue
        held.encoded.append(encoded)
        held.captions.append(caption)
        held.sides.append(math.sqrt(pixels.shape[0] * pixels.shape[1]))
        if budget > 0:
            held.pixels.append(pixels)
            budget -= pixels.nbytes
    return held


def _cpu_stages(load: Workload, held: _Held) -> dict[str, Callable[[], Timing]]:
    """The stages after reading, by name, each over and over on the samples held."""

    def decode(data: bytes) -> int:
        load.decode(data)
        return 1

    def transform(turn: tuple[Pixels, int]) -> int:
        load.transforms.train(*turn)
        return 1

    def tokenize(captions: list[str]) -> int:
        load.tokenize(captions)
        return len(captions)

    chunks = [held.captions[first : first + _CAPTIONS] for first in range(0, len(held.captions), _CAPTIONS)]
    turns = zip(itertools.cycle(held.pixels), itertools.count(), strict=False)
    times = {"threads": load.threads, "seconds": load.seconds}
    return {
        "decode": lambda: time_work(decode, itertools.cycle(held.encoded), **times),  # type: ignore[arg-type]
        "transform": lambda: time_work(transform, turns, **times),  # type: ignore[arg-type]
        "tokenise": lambda: time_work(tokenize, itertools.cycle(chunks), **times),  # type: ignore[arg-type]
    }


def _end_to_end(
    load: Workload, start: int, clock: Clock = time.monotonic, cpu_clock: Clock = time.process_time
) -> tuple[Timing, float]:
    """The loader at work, and the seconds until its first batch. That one does not count in the rate."""
    began = clock()
    with _loader(load, start) as loader:
        next(loader)
        started, cpu_started, bytes_before = clock(), cpu_clock(), loader.snapshot()["bytes_read"]
        samples = 0
        for batch in itertools.islice(loader, load.batches):
            samples += len(batch.sample_ids)
            if clock() >= started + load.seconds:
                break
        seconds, cpu = clock() - started, cpu_clock() - cpu_started
        received = loader.snapshot()["bytes_read"] - bytes_before
    return Timing(samples, seconds, cpu, received), started - began


def _loader(load: Workload, start: int) -> BatchLoader:
    return BatchLoader(
        load.samples,
        load.order,
        transform=load.transforms.train,
        decode=load.decode,
        tokenize=load.tokenize,
        image_size=load.transforms.image_size,
        global_batch=load.batch,
        start_position=start,
        threads=load.threads,
        undecodable=(UndecodableImage,),
    )

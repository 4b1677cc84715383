"""What keeps a data set from being read faster, and what to do about it. Pure: from measurements to words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clip_trainer.data.bench.timing import Timing

CPU_STAGES = ("decode", "transform", "tokenise")
"""Stages that cost CPU only; `read` may wait as well."""

_WORTH = 1.5  # images this many times larger than the model's input are worth resizing
_RESIZED = 8 / 7  # how much larger than the input images should be kept, for random crops: 256 for 224
_BUSY = 0.7  # with less than this share of the CPUs, others must be using them
_LOADER = 0.5  # below this share of what the stages allow, the loader itself is in the way


@dataclass(frozen=True)
class Situation:
    """What was measured."""

    stages: Mapping[str, Timing]
    """`read` and the `CPU_STAGES`, each alone."""
    end_to_end: Timing
    threads: int
    cpus: int
    remote: bool
    image_side: float
    """Geometric mean of width and height, pixels, over the images decoded."""
    input_side: int
    """Of the model's input, pixels."""

    @property
    def cpu_per_sample(self) -> float:
        """CPU seconds that a sample costs over all stages."""
        return sum(timing.cpu_per_sample for timing in self.stages.values())

    @property
    def available(self) -> float:
        """Share of the CPUs that this process got when it could have used them all."""
        used = [timing.cpu_seconds / timing.seconds for name, timing in self.stages.items() if name in CPU_STAGES]
        return min(1.0, max(used) / min(self.threads, self.cpus))

    @property
    def cpu_rate(self) -> float:
        """Samples a second if nothing had to be waited for."""
        return self.available * min(self.threads, self.cpus) / self.cpu_per_sample


@dataclass(frozen=True)
class Advice:
    """The bottleneck, and sentences about it."""

    bottleneck: str
    """`storage`, one of the stages, or `loader`."""
    sentences: tuple[str, ...]


def advise(found: Situation) -> Advice:
    """Name the bottleneck and say what would help."""
    bottleneck, sentences = _bottleneck(found)
    if found.available < _BUSY:
        busy = f"Other programs use the CPUs: this measurement got {100 * found.available:.0f} % of them. Repeat it."
        sentences = [*sentences, busy]
    return Advice(bottleneck, tuple(sentences))


def _bottleneck(found: Situation) -> tuple[str, list[str]]:
    read_rate, reached = found.stages["read"].rate, found.end_to_end.rate
    if read_rate < found.cpu_rate:
        return "storage", _storage(found)
    if reached < _LOADER * found.cpu_rate:
        text = (
            f"loader-bound: the stages would allow {found.cpu_rate:,.0f} samples/s, together they reach "
            f"{reached:,.0f}: a few samples are far slower than most, or the batch is too small for the threads."
        )
        return "loader", [text]
    slowest = max(found.stages, key=lambda name: found.stages[name].cpu_per_sample)
    return slowest, _cpu(found, slowest)


def _storage(found: Situation) -> list[str]:
    read = found.stages["read"]
    speed = read.bytes / max(read.seconds, 1e-9) / 1e6
    told = (
        f"storage-bound: reading gives {read.rate:,.0f} samples/s ({speed:,.0f} MB/s); "
        f"{_cpus(min(found.threads, found.cpus))} could take {found.cpu_rate:,.0f}."
    )
    where = (
        "Keep the shards nearer: a store in the same zone, a local copy, or data.cache for all epochs but the first."
        if found.remote
        else "Keep the shards on a faster disk."
    )
    return [told, where, *_resize(found, lambda fewer: f"would leave about 1/{fewer:.1f} of the bytes to read")]


def _cpu(found: Situation, slowest: str) -> list[str]:
    share = found.stages[slowest].cpu_per_sample / found.cpu_per_sample
    sentences = [
        f"{slowest}-bound: it takes {100 * share:.0f} % of the CPU time of a sample "
        f"({1e6 * found.stages[slowest].cpu_per_sample:,.0f} of {1e6 * found.cpu_per_sample:,.0f} µs)."
    ]
    if slowest == "decode":
        sentences += _resize(found, _decoding_gain(found))
    if found.threads < found.cpus:
        sentences.append(
            f"There are {_cpus(found.cpus)}: data.threads: {found.cpus} gives up to "
            f"{found.cpus / found.threads:.1f} times as many samples/s."
        )
    else:
        sentences.append(f"All {_cpus(found.cpus)} are at work; more of them help in proportion.")
    return sentences


def _resize(found: Situation, gain: Callable[[float], str]) -> list[str]:
    """Whether resizing once and for all pays.

    Args:
        found: what was measured.
        gain: says what would be gained, from how many times fewer pixels there would be.
    """
    ratio = found.image_side / found.input_side
    if ratio < _WORTH:
        return []
    side = round(found.input_side * _RESIZED)
    return [
        f"The images are {ratio:.1f} times as large as the model's input of {found.input_side} pixels: "
        f"`clipctl data reshard --resize {side}` {gain((found.image_side / side) ** 2)}."
    ]


def _decoding_gain(found: Situation) -> Callable[[float], str]:
    def gain(fewer: float) -> str:
        saved = found.stages["decode"].cpu_per_sample * (1 - 1 / fewer)
        speedup = found.cpu_per_sample / (found.cpu_per_sample - saved)
        return f"would leave 1/{fewer:.1f} of the pixels to decode: {speedup:.1f} times the samples/s"

    return gain


def _cpus(count: int) -> str:
    return "1 CPU" if count == 1 else f"{count} CPUs"

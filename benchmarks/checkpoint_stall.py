"""How long training stands still for a checkpoint: here, with `torch.save`, and with torch's own asynchronous saving.

    TMPDIR=/dev/shm python benchmarks/checkpoint_stall.py

One process holds the state of a CLIP model in fp32 with AdamW's two moments. In each round every side saves it once, in
turns; what a side does in the background is waited for before the next one begins, and its files are deleted. Measured
is the time until the state may be changed again:

- `start`: this project's `Checkpointer.start`, which returns when the state is copied.
- `begin`: `Checkpointer.begin`, then `--compute` seconds of matrix products as the next forward and backward pass, then
  `Checkpointer.before_update`. The products are not counted, but they share the cores with the copy.
- `torch.save` to a file.
- `dcp async_save`: until the call returns and its stage is copied; with its defaults, and with a stage that is kept.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from clip_testkit.tinystate import saver
from clip_trainer.checkpoint.tensors import OPTIMIZER, WEIGHTS, Tensors
from clipctl.contract.store_local import LocalStore

_FULL_GIGABYTES = 1.81  # of ViT-B-32: 151 million parameters, three times in fp32


def state_of(gigabytes: float) -> dict[str, Tensors]:
    """The tensors of ViT-B-32 by size and number, with fewer or more blocks for another size."""
    blocks = max(1, round(12 * (gigabytes / _FULL_GIGABYTES)))
    shapes: dict[str, tuple[int, ...]] = {
        "visual.conv1.weight": (768, 3, 32, 32),
        "visual.positional_embedding": (50, 768),
        "visual.proj": (768, 512),
        "token_embedding.weight": (49408, 512),
        "positional_embedding": (77, 512),
        "text_projection": (512, 512),
        "logit_scale": (),
    }
    for tower, width in (("visual.", 768), ("", 512)):
        for block in range(blocks):
            at = f"{tower}transformer.resblocks.{block}"
            shapes |= {f"{at}.ln_{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
            shapes |= {f"{at}.attn.in_proj_weight": (3 * width, width), f"{at}.attn.in_proj_bias": (3 * width,)}
            shapes |= {f"{at}.attn.out_proj.weight": (width, width), f"{at}.attn.out_proj.bias": (width,)}
            shapes |= {f"{at}.mlp.c_fc.weight": (4 * width, width), f"{at}.mlp.c_fc.bias": (4 * width,)}
            shapes |= {f"{at}.mlp.c_proj.weight": (width, 4 * width), f"{at}.mlp.c_proj.bias": (width,)}
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    moments = {f"{key}.{name}": torch.randn_like(t) for key in ("exp_avg", "exp_avg_sq") for name, t in weights.items()}
    return {WEIGHTS: weights, OPTIMIZER: moments}


class Ours:
    """This project, with one checkpointer for all rounds as in a run.

    Args:
        parts: the state.
        compute: seconds of products between `begin` and `before_update`; None: `start`.
    """

    def __init__(self, parts: dict[str, Tensors], compute: float | None) -> None:
        self._parts = parts
        self._compute = compute
        self._checkpointer = saver(LocalStore("/nowhere"), incarnation=1, keep=2)
        self._checkpointer.prepare(parts)
        self._step = 0

    def __call__(self, folder: Path) -> tuple[float, Callable[[], object]]:
        """Save once: the stall in seconds, and what waits for the rest."""
        self._checkpointer._store = LocalStore(folder)
        self._step += 1
        with stopwatch() as stall:
            start = self._checkpointer.start if self._compute is None else self._checkpointer.begin
            start(self._step, 0, self._parts, {}, {})
        if self._compute is not None:
            multiply_for(self._compute)
            with stopwatch(stall):
                self._checkpointer.before_update()
        return sum(stall), self._finish

    def _finish(self) -> None:
        self._checkpointer.wait()
        (outcome,) = self._checkpointer.poll()
        if outcome.__class__.__name__ != "Saved":
            raise SystemExit(f"not saved: {outcome}")


class TorchSave:
    """`torch.save` to one file."""

    def __init__(self, parts: dict[str, Tensors]) -> None:
        self._parts = parts

    def __call__(self, folder: Path) -> tuple[float, Callable[[], object]]:
        """See `Ours`."""
        with stopwatch() as stall:
            torch.save(self._parts, folder / "state.pt")
        return sum(stall), lambda: None


class DcpAsync:
    """`torch.distributed.checkpoint.async_save` in one process.

    Args:
        parts: the state.
        cached: with a stage that is made once and kept, instead of the defaults.
    """

    def __init__(self, parts: dict[str, Tensors], *, cached: bool) -> None:
        self._parts = parts
        self._stager: Any = None
        if cached:
            from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

            # Page-locked memory and asynchronous staging need a GPU.
            self._stager = DefaultStager(StagingOptions(False, False, False, False))

    def __call__(self, folder: Path) -> tuple[float, Callable[[], object]]:
        """See `Ours`."""
        from torch.distributed.checkpoint.state_dict_saver import async_save

        more = {} if self._stager is None else {"async_stager": self._stager}
        with stopwatch() as stall:
            answer: Any = async_save(self._parts, checkpoint_id=folder / "dcp", no_dist=True, **more)
            staged = getattr(answer, "staging_completion", None)
            if staged is not None:
                staged.result()
        finished = getattr(answer, "upload_completion", answer)
        return sum(stall), finished.result


@contextmanager
def stopwatch(seconds: list[float] | None = None) -> Iterator[list[float]]:
    """Appends the time spent inside."""
    times = [] if seconds is None else seconds
    began = time.perf_counter()
    yield times
    times.append(time.perf_counter() - began)


def multiply_for(seconds: float) -> None:
    """Keep the cores busy as a forward and backward pass does."""
    until, matrix = time.perf_counter() + seconds, torch.randn(768, 768)
    while time.perf_counter() < until:
        matrix = torch.tanh(matrix @ matrix)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.8)
    parser.add_argument("--rounds", type=int, default=3, help="after a first one, which is shown apart")
    parser.add_argument("--compute", type=float, default=0.5, help="seconds of a forward and backward pass")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    parts = state_of(options.gigabytes)
    sides: dict[str, Callable[[Path], tuple[float, Callable[[], object]]]] = {
        "start": Ours(parts, None),
        "begin": Ours(parts, options.compute),
        "torch.save": TorchSave(parts),
        "dcp async_save": DcpAsync(parts, cached=False),
        "dcp async_save, kept stage": DcpAsync(parts, cached=True),
    }
    stalls: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name in sorted(sides, key=lambda side: zlib.crc32(f"{number} {side}".encode())):
            folder = Path(tempfile.mkdtemp(prefix="checkpoint-stall-"))
            try:
                seconds, finish = sides[name](folder)
                finish()
            finally:
                shutil.rmtree(folder)
            stalls[name].append(1000 * seconds)
    show(parts, stalls)
    return 0


def show(parts: dict[str, Tensors], stalls: dict[str, list[float]]) -> None:
    """The table."""
    size = sum(tensor.nbytes for of in parts.values() for tensor in of.values()) / 1e9
    count = sum(map(len, parts.values()))
    print(f"{size:.2f} GB in {count} tensors, {torch.get_num_threads()} threads; milliseconds of stall")
    print("| Side | Median | Min | Max | First | of torch.save |\n| --- | --- | --- | --- | --- | --- |")
    base = statistics.median(stalls["torch.save"][1:])
    for name, (first, *times) in stalls.items():
        middle = statistics.median(times)
        print(f"| {name} | {middle:.0f} | {min(times):.0f} | {max(times):.0f} | {first:.0f} | {middle / base:.3f} |")


if __name__ == "__main__":
    sys.exit(main())

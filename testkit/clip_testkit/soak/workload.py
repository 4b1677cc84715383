"""What is trained under faults: a tiny model on tiny pictures, and the same run with nothing happening to it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from clip_testkit.training import write_config, write_labelled_dataset
from clip_trainer.config import load_config
from clipctl.contract.spec import RunSpec
from clipctl.contract.store import ObjectStore, open_store

NAME = "soak"
EVERY_STEPS = 20
MEMORY_STEPS = 5
_REFERENCE_SECONDS = 3600.0
_LEARNING_RATE = 3e-5
"""Low enough that training does not amplify how sums are rounded in groups of other sizes: over 2,000 steps losses
differ by 1e-6, with 1e-3 by 1e-1. High enough to learn: a step that is lost, or done twice, shows."""


@dataclass(frozen=True)
class Workload:
    """A run that is ready to start.

    Attributes:
        config: its configuration file.
        spec: what that says.
    """

    config: Path
    spec: RunSpec

    @property
    def store(self) -> ObjectStore:
        """Where the run keeps everything."""
        return open_store(self.spec.root)


def prepare(folder: Path, steps: int, nodes: int, path: str | None = None, parallel: str = "ddp") -> Workload:
    """Write data and configuration.

    Args:
        folder: for everything.
        steps: of the run.
        nodes: most agents.
        path: `checkpoint.path`; default: in `folder`.
        parallel: `train.parallel`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    if not data.exists():
        write_labelled_dataset(data, (20, 13, 31))
    config = write_config(
        folder,
        NAME,
        str(data),
        train={
            "steps": steps,
            "global_batch": 12,
            "micro_batch": 4,
            "learning_rate": _LEARNING_RATE,
            "parallel": parallel,
        },
        checkpoint={
            "path": path or str(folder / "runs"),
            "every_steps": EVERY_STEPS,
            "memory_steps": MEMORY_STEPS,
            "keep": 4,
        },
        scale={"nodes": {"min": 1, "max": nodes}, "grace_seconds": 30},
        health={"hang_seconds": 10},
    )
    return Workload(config, load_config(config).spec)


def undisturbed(folder: Path, steps: int, nodes: int) -> Workload:
    """The same run to its end, by one process, in a folder of its own. Raises RuntimeError if that fails."""
    workload = prepare(folder, steps, nodes)
    log = folder / "undisturbed.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PET_", "CLIPCTL_"))}
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", "clip_trainer.main", str(workload.config)],
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=_REFERENCE_SECONDS,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the undisturbed run ended with {done.returncode}:\n{log.read_text()[-4000:]}")
    return workload

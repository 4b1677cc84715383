"""Weights & Biases. The run's id is stable, so that a resumed run goes on with the same curves."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_trainer.log.scalars import Scalars
from clipctl.contract import layout
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import SpecError
from clipctl.contract.sections import WandbSection
from clipctl.contract.store import ObjectStore

UPLOAD_SECONDS = 300.0
"""Seconds between copies of an offline log into object storage."""


class WandbLog:
    """Implements `channel.Log`.

    Args:
        section: project, entity, notes and mode.
        name: of the run.
        root: where the run stores things, which with the name identifies it.
        config: the resolved specification, shown with the run.
        store: for offline logs of a run whose storage is remote.
        monotonic: seconds.

    Raises:
        SpecError: the package wandb is missing.
    """

    def __init__(
        self,
        section: WandbSection,
        *,
        name: str,
        root: str,
        config: dict[str, Any],
        store: ObjectStore,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise SpecError("the package wandb is not installed.", hint="Install clipctl[wandb].") from error
        self._store = None if "://" not in root else store
        self._directory = _directory(root)
        self._monotonic, self._uploaded = monotonic, monotonic()
        self._run: Any = wandb.init(
            project=section.project,
            entity=section.entity,
            notes=section.notes or None,
            name=name,
            id=run_id(name, root),
            resume="allow",
            config=config,
            mode=section.mode,
            dir=str(self._directory),
            settings=wandb.Settings(console="off"),
        )
        self._offline = section.mode == "offline"

    def train(self, scalars: Scalars, step: int) -> None:
        """See `channel.Log`. Steps that are logged already are dropped by wandb itself."""
        self._run.log({**scalars, "step": step}, step=step)

    def evaluation(self, scalars: Scalars, step: int, epoch: int | None) -> None:
        """See `channel.Log`; the axis is always the step, as in OpenCLIP."""
        self._run.log({**scalars, "epoch": scalars["val/epoch"]}, step=step)

    def flush(self) -> None:
        """Copy an offline log to object storage now and then; everything else wandb does itself."""
        if self._monotonic() - self._uploaded >= UPLOAD_SECONDS:
            self._upload()

    def close(self) -> None:
        """See `channel.Log`."""
        self._run.finish()
        self._upload()

    def _upload(self) -> None:
        self._uploaded = self._monotonic()
        if self._store is None or not self._offline:
            return
        for path in sorted(self._directory.glob("wandb/offline-run-*/**/*")):
            if path.is_file() and not path.is_symlink():
                inside = path.relative_to(self._directory / "wandb").as_posix()
                self._store.write(f"{layout.WANDB}{inside}", path.read_bytes())


def run_id(name: str, root: str) -> str:
    """Id of a run at Weights & Biases: its name, and a digest of where it is stored."""
    return f"{name}-{sha256_hex(root.encode())[:8]}"


def _directory(root: str) -> Path:
    """Where wandb keeps its files: below a local run's root, or on this machine."""
    if "://" in root:
        return Path(tempfile.mkdtemp(prefix="clip-wandb-"))
    path = Path(root).expanduser().absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path

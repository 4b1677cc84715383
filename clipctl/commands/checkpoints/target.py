"""The argument all of these commands take: a run, and which of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clipctl.contract.layout import CheckpointId
    from clipctl.contract.retention import KeepPolicy
    from clipctl.contract.store import ObjectStore

_RUN = "Path of a run.yaml, name of a run, or URL or directory of a run's root"
_WHICH = "latest, best (lowest loss), a step, or an id as `ls` prints it"

Run = Annotated[str, typer.Argument(metavar="RUN", help=f"{_RUN}.")]
RunWhich = Annotated[str, typer.Argument(metavar="RUN[@WHICH]", help=f"{_RUN}. WHICH: {_WHICH}.")]
Checkpoint = Annotated[
    str | None, typer.Option("--checkpoint", metavar="WHICH", help="Which one, instead of @WHICH behind the run.")
]


@dataclass(frozen=True)
class Opened:
    """An opened run.

    Attributes:
        store: its storage.
        which: the checkpoint that was named; None if none was.
        keep: what its run.yaml says to keep; None without one.
    """

    store: ObjectStore
    which: str | None = None
    keep: KeepPolicy | None = None


def open_run(run: str, namespace: str | None, context: str | None, checkpoint: str | None = None) -> Opened:
    """Open a run's storage.

    Args:
        run: `RUN` or `RUN@WHICH`.
        namespace: where to look for a run that is given by name.
        context: of the kubeconfig.
        checkpoint: `--checkpoint`.

    Raises:
        MissingError: nothing is stored there.
        SpecError: the checkpoint is named twice, or by something that names none.
    """
    from clipctl.contract.errors import MissingError, SpecError
    from clipctl.contract.layout import COMMITS
    from clipctl.runtarget import find

    run, which = _split(run)
    if which is not None and checkpoint is not None:
        raise SpecError("the checkpoint is named twice: by @ and by --checkpoint.")
    target = find(run, namespace, context)
    store = target.open()
    if "://" not in target.run_root and not _is_directory(target.run_root):
        raise MissingError(f"{target.run_root} does not exist.", hint="Nothing was stored for this run yet.")
    store.list(COMMITS)  # credentials and bucket are checked here, before anything is printed
    return Opened(store, which or checkpoint, target.keep)


def intact(opened: Opened) -> CheckpointId:
    """The checkpoint that was named, or the newest that verifies; damaged ones that had to be passed over are told.

    Raises:
        MissingError: there is none.
        CorruptError: there are some, but none verifies.
    """
    from clipctl.contract.checkpoint_selector import LATEST, select_verified
    from clipctl.output import note

    return select_verified(
        opened.store,
        opened.which or LATEST,
        lambda rejection: note(f"REJECTED {rejection.checkpoint}: {rejection.problem}"),
    )


def _split(run: str) -> tuple[str, str | None]:
    """A path that exists is never split: directories may have an @ in their name."""
    import os

    from clipctl.contract.checkpoint_selector import split_target

    return (run, None) if os.path.exists(run) else split_target(run)


def _is_directory(path: str) -> bool:
    from pathlib import Path

    return Path(path.removeprefix("file://")).expanduser().is_dir()

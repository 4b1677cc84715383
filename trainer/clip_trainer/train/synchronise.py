"""At the start of each generation all ranks agree on one state, and go on from it.

Whoever has done the most steps has the newest state; all who are behind get it from the lowest such rank: newcomers,
survivors whose last step the loss of a peer interrupted, and those whose state broke in the middle of an update. Only
if nobody has a state, or all who have one were cut off while others trained on, does it come from what dead processes
left in their nodes' memory, or from storage.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from clip_trainer.checkpoint.adopting import adopt_run
from clip_trainer.checkpoint.exchange import broadcast_state
from clip_trainer.checkpoint.incarnation import allocate, newest_incarnation
from clip_trainer.parallel.pieces import is_sharded
from clip_trainer.train import takeover
from clip_trainer.train.memory_message import become, message_of
from clip_trainer.train.openclip_state import adopt
from clip_trainer.train.peer_memory import go_on_from_memory
from clip_trainer.train.run import Run
from clip_trainer.train.state import TrainState
from clipctl.contract.commits import list_checkpoints
from clipctl.contract.errors import TryAgainError
from clipctl.contract.failpoints import failpoint
from clipctl.contract.resume_source import ResumeRun, parse_resume_source

STORAGE = "storage"
"""Origin of a state: a checkpoint, or the beginning."""
MEMORY = "memory"
"""Origin of a state: what processes that are gone have left in their nodes' memory."""
PEER = "peer"
"""Origin of a state: another rank's memory."""
OWN = "own"
"""Origin of a state: all ranks had the same."""
_SAVE_SECONDS = 30.0


def synchronise(run: Run, generation: int = 1) -> str:
    """Bring every rank to the newest state there is. Collective.

    Args:
        run: as this process has it.
        generation: number of the one that these ranks are.

    Returns:
        Where this rank's state came from: `STORAGE`, `MEMORY`, `PEER` or `OWN`.

    Raises:
        ClipError: there is no state that can be used.
    """
    step = run.state.step if run.whole else -1
    reports = run.group.gather_json({"step": step, "incarnation": run.incarnation, "generation": run.generation})
    newest = max(report["step"] for report in reports)
    incarnation = max(report["incarnation"] for report in reports)
    rival = None if newest < 0 else _rival(run, generation - max(one["generation"] for one in reports), incarnation)
    if newest < (0 if rival is None else rival):
        run.group.on_each(lambda: run.checkpointer.wait(_SAVE_SECONDS))  # it may be what we go back to
        _incarnate(run)
        origin = MEMORY if go_on_from_memory(run) else STORAGE
        if origin == STORAGE:
            _from_storage(run)
    else:
        source = next(rank for rank, report in enumerate(reports) if report["step"] == newest)
        behind = any(report["step"] != newest for report in reports)
        mine = reports[run.group.rank]["step"] == newest
        written = run.state.step  # as far as the ledger goes, if this rank keeps it
        if behind:
            _from_peer(run, source, mine)
        origin = OWN if mine else PEER
        _go_on(run, incarnation, written, overtaken=rival is not None)
    run.whole, run.step.torn, run.generation = True, False, generation
    return origin


def _rival(run: Run, generations: int, incarnation: int) -> int | None:
    """The newest step that a group without any of these ranks has committed, -1 if none. Collective.

    None if there was no such group. Storage is not asked if this generation follows on the last one of ours.

    Args:
        run: as this process has it.
        generations: how many have been numbered since the last one of ours, with this one.
        incarnation: the newest that one of us knows.
    """

    def ask() -> int | None:
        if newest_incarnation(run.store) <= incarnation:
            return None
        theirs = [checkpoint.step for checkpoint in list_checkpoints(run.store) if checkpoint.incarnation > incarnation]
        return max(theirs, default=-1)

    return run.group.on_first(ask) if generations > 1 else None


def _incarnate(run: Run) -> None:
    """Take the next incarnation number, so that a group before this one can no longer commit."""

    def take() -> int:
        return allocate(run.store, attempt=run.config.attempt, world=run.group.world, now=time.time())

    _become(run, int(run.group.on_first(take)))
    failpoint("train.incarnated")
    if run.group.is_first:
        run.events.open(run.incarnation)


def _become(run: Run, incarnation: int) -> None:
    """Belong to an incarnation. Whoever was cut off as rank 0 of an older one writes and commits for it no more."""
    if run.incarnation not in (0, incarnation):
        run.checkpointer.abandon()
    if not run.group.is_first:
        run.events.close()
    run.incarnation = incarnation
    run.checkpointer.identity = replace(run.checkpointer.identity, incarnation=incarnation)


def _from_storage(run: Run) -> None:
    run.state = TrainState(first_started_at=time.time())
    run.events.remember(())
    failpoint("train.restoring")
    restored = run.restore()
    if restored is not None:
        run.state = TrainState.from_json(restored.state["train"])
        run.checkpointer.continue_from(restored.checkpoint)
        source = f"resumed from verified checkpoint {restored.checkpoint}"
    elif any(run.group.gather_json(run.touched)):
        raise TryAgainError("the state is lost, and there is no checkpoint yet: the run begins again in new processes.")
    elif run.spec.checkpoint.resume_from is not None:
        source = _adopt(run, run.spec.checkpoint.resume_from)
    else:
        run.group.broadcast_tensors(t for t in run.model.state_dict().values() if not is_sharded(t))
        source = "started from the beginning"
    takeover.announce(run, source, resumed_from=str(restored.checkpoint) if restored else None)


def _adopt(run: Run, location: str) -> str:
    """Take over another run or a training checkpoint of OpenCLIP; returns what to tell the user."""
    if isinstance(parse_resume_source(location), ResumeRun):
        found = adopt_run(run.trainable, run.group, location, run.checkpointer.identity.training_digest)
        run.state = TrainState.from_json(found.state["train"])
        run.state.first_started_at = time.time()
        return f"continued from {location} (checkpoint {found.checkpoint})"
    position = adopt(location, run.trainable, run.group, check_quick_gelu=run.spec.model.quick_gelu is None)
    run.state.step = position.step
    run.state.samples_consumed = position.step * run.spec.train.global_batch
    return f"continued from {location} (epoch {position.epoch})"


def _from_peer(run: Run, source: int, mine: bool) -> None:
    """Give the state of rank `source` to all who are behind. Collective."""
    message: dict[str, Any] | None = None
    parts = None
    if run.group.rank == source:
        parts, trained = run.trainable.collect()
        message = message_of(run, trained)
    message = run.group.broadcast_json(message, source)
    tensors = broadcast_state(run.group, source, parts)
    if not mine:
        become(run, message, tensors)


def _go_on(run: Run, newest: int, written: int, *, overtaken: bool = False) -> None:
    """Keep the incarnation `newest` if its rank 0 is still rank 0; else rank 0 takes over storage as a new one."""
    if run.group.broadcast_json(run.events.writes and run.incarnation == newest and not overtaken):
        _become(run, newest)
        takeover.copy_steps(run, written)  # a step that only others had done when the group broke
        return
    _incarnate(run)
    takeover.take_over(run, newest)

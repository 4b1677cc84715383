"""A process trains through one generation of the worker group after the other, and keeps its state in between.

    build once; then again and again: meet the others, agree on the state, train until the group changes

A peer's death ends a generation wherever its collective happens to be; a peer that comes or goes in good order ends it
between two steps, on all ranks alike.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial

from clip_trainer.config import RunConfig
from clip_trainer.elastic import process_group
from clip_trainer.elastic.beacon import current as beacon
from clip_trainer.elastic.membership import Generation, Membership, PeerLostError
from clip_trainer.log.experiment import ExperimentLogs
from clip_trainer.train.divergence import DivergenceError
from clip_trainer.train.group import COLLECTIVE_TIMEOUT, Group
from clip_trainer.train.loop import RegroupError, train
from clip_trainer.train.peer_loss import is_peer_loss, words
from clip_trainer.train.preemption import PreemptionNotice
from clip_trainer.train.prepare import prepare, rebuild
from clip_trainer.train.recovery import Recovery
from clip_trainer.train.run import Run
from clip_trainer.train.synchronise import synchronise
from clipctl.contract.errors import ExitCode
from clipctl.contract.failpoints import failpoint
from clipctl.contract.redact import redact


def train_through_generations(
    config: RunConfig, group: Group, membership: Membership, notice: PreemptionNotice
) -> None:
    """Train until the run is complete.

    Args:
        config: of the run.
        group: this process alone; it becomes what each generation makes it.
        membership: where generations come from.
        notice: whether this process was asked to stop.

    Raises:
        ClosedError: others have ended the run.
        TryAgainError: this process has to go; a new one may go on.
        ClipError: the run cannot go on.
    """
    Life(config, group, membership, notice).run_to_the_end()


class Life:
    """One process in the group; see `train_through_generations`."""

    def __init__(self, config: RunConfig, group: Group, membership: Membership, notice: PreemptionNotice) -> None:
        self._config = config
        self._group = group
        self._membership = membership
        self._notice = notice
        self._run: Run | None = None
        self._logs: ExperimentLogs | None = None
        self._logged = -1
        self._recovery = Recovery()

    def run_to_the_end(self) -> None:
        """Generation after generation."""
        if self._membership.running:
            self._build()  # the others go on training meanwhile
        try:
            while not self._one_generation(self._meet()):
                if self._run is None:
                    self._build()  # alone, so that nobody waits for it in the next generation
            self._membership.close(ExitCode.OK)
        finally:
            if self._logs is not None:
                self._logs.close()

    def _build(self) -> Run:
        beacon().phase("start")
        self._run = prepare(self._config, self._group)
        serve_metrics(self._run)
        return self._run

    def _meet(self) -> Generation:
        beacon().phase("idle")
        with self._notice.interrupting():
            generation = self._membership.next()
        failpoint("train.generation_formed")
        beacon().entered(generation.number, generation.rank)
        return generation

    def _one_generation(self, generation: Generation) -> bool:
        """Train in a generation; False if it ended before the run did."""
        lost_before = set(self._recovery.members) - set(generation.members)
        self._recovery.entered(generation.members, generation.number)
        try:
            self._group.become(generation.rank, generation.world)
            process_group.enter(generation, self._group.device, COLLECTIVE_TIMEOUT)
            failpoint("train.group_entered")
            self._recovery.phase("form")
            self._work(generation, peers_left=bool(lost_before))
            return True
        except RegroupError:
            self._leave(lost=False)
        except DivergenceError:
            assert self._run is not None
            self._run.whole = False  # on every rank, so the state comes from storage
            self._leave(lost=False)
        except PeerLostError as error:
            self._lose(error)
        except Exception as error:
            if not (is_peer_loss(error) or process_group.is_broken()):
                raise
            self._lose(error)
        return False

    def _work(self, generation: Generation, peers_left: bool) -> None:
        """Build if that is not done, agree on the state, train to the end."""
        if self._run is not None and self._run.sharded:
            rebuild(self._run)  # a part of the model fits no other group than the one it was made for
        run = self._run or self._build()
        if peers_left:
            run.checkpointer.abandon()  # a share of it may never come
        origin = synchronise(run, generation.number)
        failpoint("train.synchronised")
        self._recovery.phase("synchronise")
        self._recovery.share(run.group, origin)
        process_group.set_timeout(self._group.device, process_group.TRAINING_TIMEOUT)
        stepped = partial(self._recovery.stepped, run, generation.number)
        train(run, self._notice, self._open_logs(run), self._membership.changed, stepped)
        process_group.leave_group()

    def _lose(self, error: BaseException) -> None:
        line = f"rank {self._group.rank}: lost a peer ({words(error)})"
        print(redact(line), file=sys.stderr, flush=True)
        self._leave(lost=True)
        if self._run is not None and not self._run.sharded and self._run.step.torn:
            self._run.whole = False

    def _leave(self, *, lost: bool) -> None:
        self._recovery.begin(lost=lost)
        failpoint("train.leaving")
        with suppress(RuntimeError):
            process_group.leave_group()
        self._group.become(0, 1)
        self._recovery.phase("leave")

    def _open_logs(self, run: Run) -> ExperimentLogs:
        """The experiment logs of this incarnation: they go on while rank 0 stays rank 0."""
        if self._logs is None or self._logged != run.incarnation:
            if self._logs is not None:
                self._logs.close()
            self._logs, self._logged = ExperimentLogs(run), run.incarnation
        return self._logs


def serve_metrics(run: Run) -> None:
    """Serve the metrics of this process, whatever becomes of the group."""
    section, devices = run.spec.metrics, run.spec.scale.devices_per_node
    run.metrics.serve(section.port + run.group.local_rank, devices)

"""What a run watches of itself from step to step: that its replicas stay equal, and that no rank is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clip_trainer.elastic.beacon import current as beacon
from clip_trainer.train.divergence import ReplicaCheck
from clip_trainer.train.stragglers import StragglerWatch
from clipctl.contract import metric_names

if TYPE_CHECKING:
    from clip_trainer.train.run import Run


class Health:
    """The watch over one generation of the group; see `health` of run.yaml.

    Shards have nothing to compare, and ranks that fetch each other's weights all the time are equally slow: with
    `train.parallel` fsdp nothing is watched here.

    Args:
        run: brought to the same state on every rank.
    """

    def __init__(self, run: Run) -> None:
        section = run.spec.health
        self._run = run
        self._watched = run.spec.train.parallel == "ddp"
        self._replicas = ReplicaCheck(
            lambda: run.model.state_dict().values(),
            run.group,
            section.checksum_steps if self._watched else 0,
            self._tell,
        )
        ratio = run.metrics[metric_names.TRAIN_STRAGGLER]
        self._stragglers = StragglerWatch(run.group, section.straggler_ratio, run.events.tell, ratio.set)
        self._waited = 0.0

    def before_step(self) -> None:
        """Remember how long this rank has waited for others so far."""
        self._waited = beacon().waited

    def checksum(self, *, saving: bool) -> int | None:
        """The checksum of this rank's weights, if the ranks' are to be compared after this step. Not collective.

        Args:
            saving: see `ReplicaCheck.own`.
        """
        return self._replicas.own(self._run.state.step, saving=saving)

    def after_step(self, checksum: int | None, seconds: float) -> None:
        """Compare what is due, when the step is in the ledger. Collective.

        Args:
            checksum: what `checksum` gave.
            seconds: the step took, waiting for the batch and for peers included.

        Raises:
            DivergenceError: ranks have different weights; on every rank.
        """
        step = self._run.state.step
        if checksum is not None:
            self._replicas.compare(step, checksum)
        if self._watched:
            self._stragglers.after_step(step, max(0.0, seconds - (beacon().waited - self._waited)))

    def _tell(self, event: str, message: str, **fields: Any) -> None:
        self._run.metrics[metric_names.TRAIN_DIVERGENCES].inc()
        self._run.events.tell(event, message, **fields)
        self._run.events.try_flush()

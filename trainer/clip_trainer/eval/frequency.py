"""When to evaluate: by steps, by epochs or by time, for each data set on its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from clip_trainer.train.group import Group
from clipctl.contract.sections import EvalSection, EverySection


def frequencies(section: EvalSection) -> dict[str, EverySection]:
    """The frequency of each evaluation by name; one without its own follows `eval.every_steps`."""
    default = EverySection(steps=section.every_steps)
    own = {name: one.every for name, one in section.classification_sets().items()}
    if section.retrieval is not None:
        own["retrieval"] = section.retrieval.every
    return {name: every or default for name, every in own.items()}


def only_by_epoch(section: EvalSection) -> bool:
    """Whether nothing is evaluated on the way except at ends of epochs, as in OpenCLIP."""
    return not any(every.steps or every.seconds or (every.epochs or 1) % 1 for every in frequencies(section).values())


class Frequency:
    """Says after each step what is due.

    Args:
        section: the frequencies.
        group: the ranks; rank 0's clock counts.
        epoch: samples of the training data.
        monotonic: seconds, for `every.seconds`, which counts from here and from each evaluation.
    """

    def __init__(
        self, section: EvalSection, group: Group, epoch: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._every = frequencies(section)
        self._group, self._epoch, self._monotonic = group, epoch, monotonic
        self._evaluated = dict.fromkeys(self._every, monotonic())
        self._timed = any(every.seconds for every in self._every.values())

    def due(self, step: int, before: int, after: int) -> frozenset[str]:
        """What is due after a step, equal on every rank. Collective if anything goes by time.

        Args:
            step: steps done.
            before: samples consumed before the step.
            after: samples consumed with it.
        """
        late = self._late()
        found = {name for name, every in self._every.items() if self._crossed(every, step, before, after)}
        return frozenset(found | set(late))

    def evaluated(self, names: frozenset[str]) -> None:
        """Note that these were evaluated just now."""
        self._evaluated.update(dict.fromkeys(names, self._monotonic()))

    def _late(self) -> list[str]:
        if not self._timed:
            return []
        now = self._monotonic()
        timed = ((name, every.seconds) for name, every in self._every.items() if every.seconds)
        late = [name for name, seconds in timed if now - self._evaluated[name] >= seconds]
        return list(self._group.broadcast_json(late))

    def _crossed(self, every: EverySection, step: int, before: int, after: int) -> bool:
        if every.steps and step % every.steps == 0:
            return True
        if not every.epochs:
            return False
        samples = every.epochs * self._epoch
        return math.floor(after / samples) > math.floor(before / samples)

"""Run the evaluations that a run.yaml's `eval` section describes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from clip_trainer.data.loading.eval_stream import EvalStream
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.eval.encoder import CHUNK, Encoder
from clip_trainer.eval.folder import FolderStream, Labelled, scan
from clip_trainer.eval.prompts import resolve_classes, resolve_templates
from clip_trainer.eval.validation import validate
from clip_trainer.eval.zero_shot import Classifiers, zero_shot
from clip_trainer.train.group import Group
from clip_trainer.train.shared_dataset import share_evaluation_data
from clip_trainer.vision import UndecodableImage, decode_image
from clipctl.contract.sections import ColumnsSection, EvalSection, RetrievalSection, ZeroShotSection

RETRIEVAL = "retrieval"


@dataclass
class Evaluator:
    """Evaluates models on the data sets of a section, which are opened once.

    Attributes:
        group: the ranks that share the work.
        section: what to evaluate.
        threads: decoder threads of this rank.
    """

    group: Group
    section: EvalSection
    threads: int = 2
    _datasets: dict[str, JoinedSamples] = field(default_factory=dict)
    _folders: dict[str, list[Labelled]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Everything there is to evaluate: `zero_shot`, `zero_shot_sets.<name>`, `retrieval`."""
        pairs = () if self.section.retrieval is None else (RETRIEVAL,)
        return (*self.section.classification_sets(), *pairs)

    def run(self, encoder: Encoder, names: Collection[str]) -> dict[str, Any]:
        """The results of some evaluations by name (`zero_shot_sets` is a level of its own), equal on every rank.

        Collective. The model is in evaluation mode meanwhile.
        """
        results: dict[str, Any] = {}
        classifiers = Classifiers(encoder, self.group)
        with evaluation_mode(encoder.model):
            for name, section in self.section.classification_sets().items():
                if name in names:
                    kind, _, own = name.partition(".")
                    found = self._classify(encoder, classifiers, section, name)
                    results |= {kind: {**results.get(kind, {}), own: found} if own else found}
            if self.section.retrieval is not None and RETRIEVAL in names:
                results[RETRIEVAL] = self._retrieve(encoder, self.section.retrieval)
        return results

    def _classify(
        self, encoder: Encoder, classifiers: Classifiers, section: ZeroShotSection, name: str
    ) -> dict[str, float | int]:
        read = self.group.on_first
        classes = read(lambda: list(resolve_classes(section.classes)))
        templates = resolve_templates(read(lambda: [str(t) for t in resolve_templates(section.templates)]))
        images = self._labelled(encoder, section)
        weights = classifiers.get(classes, templates)
        return zero_shot(encoder, self.group, images, weights, f"eval.{name} ({section.data or section.folder})")

    def _labelled(self, encoder: Encoder, section: ZeroShotSection) -> EvalStream | FolderStream:
        if section.data is not None:
            return self._stream(encoder, section.data)
        folder = section.folder
        assert folder is not None  # the section has exactly one of them
        if folder not in self._folders:
            found = self.group.on_first(lambda: scan(folder))
            self._folders[folder] = [(path, number) for path, number in found]
        rank, world = self.group.rank, self.group.world
        images = self._folders[folder]
        return FolderStream(
            folder, images, transform=encoder.transform, rank=rank, world=world, chunk=CHUNK, threads=self.threads
        )

    def _retrieve(self, encoder: Encoder, section: RetrievalSection) -> dict[str, float | int]:
        pairs = self._stream(encoder, section.data, section.columns)
        options = {"captions": section.captions, "loss_batch": section.loss_batch}
        return validate(encoder, self.group, pairs, name=f"eval.retrieval ({section.data})", **options)  # type: ignore[arg-type]

    def _stream(self, encoder: Encoder, url: str, columns: ColumnsSection | None = None) -> EvalStream:
        if url not in self._datasets:
            self._datasets[url] = share_evaluation_data(url, columns, self.group)
        return EvalStream(
            self._datasets[url],
            decode=decode_image,
            transform=lambda image, _: encoder.transform(image),
            rank=self.group.rank,
            world=self.group.world,
            chunk=CHUNK,
            threads=self.threads,
            undecodable=(UndecodableImage,),
        )


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and every module back into the mode it was in (frozen ones may differ)."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True

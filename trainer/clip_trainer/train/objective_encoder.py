"""A model and its teacher as the losses see them: micro-batches of samples in, features and caption losses out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clip_trainer.loss import Features, LossTerms, caption_loss
from clip_trainer.loss.pairwise import widened
from clip_trainer.model import Precision
from clip_trainer.model.patch_dropout import PatchDropout
from clip_trainer.train.micro_batch import MicroBatch
from clip_trainer.vision import Preprocess, normalize


class Runner:
    """A model with what it takes to run it on raw samples.

    Args:
        model: on `device`, with OpenCLIP's `encode_image` and `encode_text`.
        precision: how to run it.
        preprocess: normalisation of its images.
        device: where to compute.
    """

    def __init__(self, model: Any, precision: Precision, preprocess: Preprocess, device: torch.device) -> None:
        self.model = model
        self._precision = precision
        self._preprocess = preprocess
        self._device = device
        # Towers that do not look beyond the end of text can leave the padding out; others compute it.
        self._truncates = "text_length" in inspect.signature(model.encode_text).parameters

    def features(self, part: MicroBatch) -> Features:
        """Both towers."""
        images, tokens = self._inputs(part)
        options = {"text_length": part.text_length} if self._truncates else {}
        with self._precision.autocast(self._device.type), self._keyed(part):
            image = self.model.encode_image(images, normalize=True)
            text = self.model.encode_text(tokens, normalize=True, **options)
        return self._features(image, text)

    def features_and_captions(self, part: MicroBatch) -> tuple[Features, Tensor, Tensor]:
        """Both towers and the caption decoder of a CoCa: features, logits [n, t, vocabulary], labels [n, t]."""
        images, tokens = self._inputs(part)
        with self._precision.autocast(self._device.type), self._keyed(part):
            out = self.model(images, tokens)
        return self._features(out["image_features"], out["text_features"]), out["logits"], out["labels"]

    def _keyed(self, part: MicroBatch) -> AbstractContextManager[None]:
        """Let the samples, not their place in a batch, decide which patches are left out."""
        dropout = getattr(getattr(self.model, "visual", None), "patch_dropout", None)
        return dropout.keyed(part.keys) if isinstance(dropout, PatchDropout) else nullcontext()

    def _inputs(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        images = normalize(
            part.images.to(self._device, non_blocking=True),
            self._preprocess.mean,
            self._preprocess.std,
            self._precision.image_dtype,
        )
        return images, part.tokens.to(self._device, non_blocking=True)

    def _features(self, image: Tensor, text: Tensor) -> Features:
        # Losses sum over the whole batch: in fp32, whatever the towers computed in.
        scale, bias = self.model.logit_scale, getattr(self.model, "logit_bias", None)
        return Features(
            widened(image),
            widened(text),
            widened(scale).exp().reshape(()),
            None if bias is None else widened(bias).reshape(()),
        )


class Captions(NamedTuple):
    """How to weigh a caption's tokens."""

    weight: float
    """Of the caption loss."""
    tokens: Tensor
    """[1], by how many tokens to divide: those of the global batch."""


class ModelEncoder:
    """What `backward_cached` needs: student and teacher. See `clip_trainer.loss.Encoder` for the methods.

    Args:
        student: the model that learns.
        teacher: one that does not, in evaluation mode.
        captions: how to weigh the student's caption loss; None means not to compute it.
    """

    def __init__(self, student: Runner, teacher: Runner | None = None, captions: Captions | None = None) -> None:
        self._student = student
        self._teacher = teacher
        self._captions = captions

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher."""
        return self._teacher is not None

    def with_captions(self, captions: Captions | None) -> ModelEncoder:
        """The same for a batch with another number of tokens."""
        return ModelEncoder(self._student, self._teacher, captions)

    def features(self, part: MicroBatch) -> Features:
        """The student's, leaving its batch statistics alone: the pass with a graph updates them."""
        with frozen_statistics(self._student.model):
            return self._student.features(part)

    def features_and_terms(self, part: MicroBatch) -> tuple[Features, LossTerms]:
        """The student's, and its caption loss."""
        if self._captions is None:
            return self._student.features(part), {}
        features, logits, labels = self._student.features_and_captions(part)
        weight, tokens = self._captions
        contribution = caption_loss(logits, labels, tokens=tokens.reshape(()))
        return features, {"caption_loss": contribution * weight}

    def teacher(self, part: MicroBatch) -> Features | None:
        """The teacher's."""
        return None if self._teacher is None else self._teacher.features(part)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation use the statistics of the batch without adding them to the running ones."""
    changed = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for module in changed:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in changed:
            module.track_running_stats = True

"""Reference and distributed runs of the contrastive loss, on seeded features, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from clip_trainer.loss import ContrastiveLoss, DistillationLoss, Features, SigmoidLoss

BIAS = -4.0


class Case(NamedTuple):
    """A loss over a batch spread over some ranks of the default group."""

    loss: str
    """clip, siglip or distill."""
    counts: tuple[int, ...]
    """Rows of each rank that shares the batch."""
    tile: int = 3
    ranks: tuple[int, ...] | None = None
    """The ranks that share the batch; None means the first ones."""

    @property
    def members(self) -> tuple[int, ...]:
        """The ranks that share the batch."""
        return self.ranks or tuple(range(len(self.counts)))


class Gradients(NamedTuple):
    """What one rank sees of a loss."""

    loss: float
    image: list[list[float]]
    text: list[list[float]]
    scale: float
    bias: float


WIDTH = 5


def features(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows of correlated image and text features, and a scale, all wanting gradients."""
    generator = torch.Generator().manual_seed(seed)
    image = functional.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)
    noise = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    text = functional.normalize(image + 0.5 * noise, dim=-1)
    scale = torch.tensor(17.0, dtype=torch.float64)
    return image.requires_grad_(), text.requires_grad_(), scale.requires_grad_()


def dense(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The loss with the whole matrix in memory, straight from the paper."""
    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2


def dense_sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """SigLIP's loss with the whole matrix in memory (arXiv 2303.15343, algorithm 1)."""
    logits = scale * image @ text.T + (0.0 if bias is None else bias)
    signs = 2 * torch.eye(len(image), dtype=logits.dtype) - 1
    return -functional.logsigmoid(signs * logits).sum() / len(image)


def dense_distillation(student: Features, teacher: Features) -> Tensor:
    """Cross-entropy against the teacher's softmax in both directions, with the whole matrices in memory."""
    logits = student.scale * student.image @ student.text.T
    wanted = teacher.scale * teacher.image @ teacher.text.T
    by_row = -(wanted.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    by_column = -(wanted.T.softmax(1) * logits.T.log_softmax(1)).sum(1).mean()
    return (by_row + by_column) / 2


def teacher_features(rows: int, seed: int) -> Features:
    """What a teacher of another width says about `features(rows, width, seed)`."""
    image, text, _ = features(rows, 3, seed + 1000)
    return Features(image.detach(), text.detach(), torch.tensor(9.0, dtype=torch.float64))


def whole_batch(case: Case, seed: int) -> Gradients:
    """The loss and its gradients in this process alone, with all of each matrix in memory."""
    rows = sum(case.counts)
    image, text, scale = features(rows, WIDTH, seed)
    bias = torch.tensor(BIAS, dtype=torch.float64, requires_grad=True)
    if case.loss == "clip":
        loss = dense(image, text, scale)
    elif case.loss == "siglip":
        loss = dense_sigmoid(image, text, scale, bias)
    else:
        loss = dense_distillation(Features(image, text, scale, bias), teacher_features(rows, seed))
    return _gradients(loss, image, text, scale, bias)


def rank_gradients(rank: int, cases: Sequence[Case], seed: int) -> list[Gradients | None]:
    """This rank's part of each case; None where it does not belong to the ranks that share the batch."""
    return [_rank_case(rank, case, seed) for case in cases]


def _rank_case(rank: int, case: Case, seed: int) -> Gradients | None:
    group = None if len(case.members) == dist.get_world_size() else dist.new_group(list(case.members))
    if rank not in case.members:
        return None
    assert group is None or isinstance(group, dist.ProcessGroup)
    rows = sum(case.counts)
    start = sum(case.counts[: case.members.index(rank)])
    own = slice(start, start + case.counts[case.members.index(rank)])
    image, text, scale = features(rows, WIDTH, seed)
    image, text = (tensor[own].detach().requires_grad_() for tensor in (image, text))
    bias = torch.tensor(BIAS, dtype=torch.float64, requires_grad=True)
    if case.loss == "distill":
        whole = teacher_features(rows, seed)
        teacher = Features(whole.image[own], whole.text[own], whole.scale)
        student = Features(image, text, scale, bias)
        loss = DistillationLoss(case.tile)(student, teacher, group, case.counts)
    else:
        kind = ContrastiveLoss if case.loss == "clip" else SigmoidLoss
        loss = kind(case.tile)(image, text, scale, group, case.counts, logit_bias=bias)
    return _gradients(loss, image, text, scale, bias)


def _gradients(loss: Tensor, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Gradients:
    d_image, d_text, d_scale, d_bias = torch.autograd.grad(
        loss, (image, text, scale, bias), allow_unused=True, materialize_grads=True
    )
    return Gradients(float(loss.detach()), d_image.tolist(), d_text.tolist(), float(d_scale), float(d_bias))

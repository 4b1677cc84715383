"""Reference and distributed runs of the contrastive loss, on seeded features, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from clip_trainer.loss import ContrastiveLoss, Features

Gradients = tuple[float, list[list[float]], list[list[float]], float]
"""Loss contribution, gradient of the image rows, of the text rows, of the scale."""


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


def rank_gradients(
    rank: int, counts: Sequence[int], width: int, tile: int, seed: int, ranks: Sequence[int]
) -> Gradients:
    """This rank's part of the loss and its gradients; the ranks named share the batch (in a group of their own).

    Args:
        rank: this rank in the default group.
        counts: rows of each rank of the sharing group.
        width: of the features.
        tile: of the loss.
        seed: of the features.
        ranks: members of the sharing group; all ranks make the default group.
    """
    group = None if len(ranks) == dist.get_world_size() else dist.new_group(list(ranks))
    if rank not in ranks:
        return 0.0, [], [], 0.0
    assert group is None or isinstance(group, dist.ProcessGroup)
    place = ranks.index(rank)
    image, text, scale = features(sum(counts), width, seed)
    start = sum(counts[:place])
    rows = slice(start, start + counts[place])
    mine = [tensor[rows].detach().requires_grad_() for tensor in (image, text)]
    output = ContrastiveLoss(tile)(mine[0], mine[1], scale, group, list(counts))
    d_image, d_text, d_scale = torch.autograd.grad(output, (mine[0], mine[1], scale))
    return float(output.detach()), d_image.tolist(), d_text.tolist(), float(d_scale)

"""The validation loss: what the contrastive loss says about held-out pairs, in batches of a fixed size.

Its value depends on the batch size (more pairs to tell apart), so this is a number of its own, `loss_batch`, and the
same samples form a batch on any number of ranks.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, logsigmoid

from clip_trainer.eval.ranking import gather_rows
from clip_trainer.train.group import Group

_BATCHES_AT_ONCE = 64


def validation_losses(
    group: Group,
    images: torch.Tensor,
    texts: torch.Tensor,
    ids: torch.Tensor,
    *,
    logit_scale: float,
    logit_bias: float | None,
    batch: int,
) -> dict[str, float]:
    """Mean losses over all pairs. Collective; equal on every rank.

    Args:
        group: the ranks.
        images: unit vectors of this rank's samples [n, d].
        texts: those of their first captions.
        ids: ids of the samples [n], int64, ascending.
        logit_scale: factor of the similarities.
        logit_bias: bias of SigLIP models. None: the model has none.
        batch: pairs contrasted with each other; consecutive samples form a batch, the last may be smaller.

    Returns:
        `clip_val_loss`, softmax cross-entropy as OpenCLIP computes it (a bias cancels in it); with a bias also
        `siglip_val_loss`, the sigmoid loss with the bias (arXiv 2303.15343), which is what such a model learns.
    """
    places = _places(group, ids)
    total, sums = int(group.sum(torch.tensor([len(ids)], device=group.device)).item()), torch.zeros(2).double()
    step = batch * _BATCHES_AT_ONCE
    for start in range(0, total, step):
        here = (places >= start) & (places < start + step)
        order = gather_rows(group, places[here]).argsort()
        image, text = (gather_rows(group, rows[here])[order].to(group.device) for rows in (images, texts))
        for number, at in enumerate(range(0, len(order), batch)):
            if number % group.world == group.rank:
                part = slice(at, at + batch)
                sums += _losses(image[part] @ text[part].T * logit_scale, logit_bias) * len(image[part])
    softmax, sigmoid = (group.sum(sums.to(group.device)) / max(1, total)).tolist()
    return {"clip_val_loss": softmax} | ({} if logit_bias is None else {"siglip_val_loss": sigmoid})


def _places(group: Group, ids: torch.Tensor) -> torch.Tensor:
    """Place of each sample among those of all ranks."""
    return torch.searchsorted(gather_rows(group, ids).sort().values, ids)


def _losses(logits: torch.Tensor, bias: float | None) -> torch.Tensor:
    """Softmax and sigmoid loss of a batch, each a mean over its pairs."""
    own = torch.arange(len(logits), device=logits.device)
    softmax = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    if bias is None:
        return torch.stack([softmax, torch.zeros_like(softmax)]).double().cpu()
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    sigmoid = -logsigmoid(signs * (logits + bias)).sum() / len(logits)
    return torch.stack([softmax, sigmoid]).double().cpu()

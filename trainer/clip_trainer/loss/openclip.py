"""OpenCLIP's loss classes, with its arguments and return values, on top of our exact losses.

Over several ranks they are meant for gradients that are *averaged* afterwards, as DistributedDataParallel does: the
mean over ranks of the returned losses is the loss of the global batch, and the mean of the gradients its gradient.
That holds for every combination of arguments. OpenCLIP's own classes divide the gradients of the features by the
number of ranks without `gather_with_grad`, get their direction wrong with `local_loss` alone, and average CoCa's
caption loss over ranks in place of tokens; these do not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clip_trainer.loss.caption import caption_loss, count_tokens
from clip_trainer.loss.contrastive import ContrastiveLoss
from clip_trainer.loss.distillation import DistillationLoss
from clip_trainer.loss.exchange import Exchange, GatherRows, SingleProcess
from clip_trainer.loss.features import Features
from clip_trainer.loss.pairwise import pair_exchange
from clip_trainer.loss.sigmoid import SigmoidLoss

_DIST_IMPLEMENTATIONS = ("bidir", "shift", "reduce", "gather")


class _RankLoss(nn.Module):
    """What the classes have in common: rank and number of ranks, and how to combine contributions.

    Args:
        rank: this process's rank in the default group.
        world_size: ranks that share the batch; 1 means this process alone, whatever group there is.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        self.rank = rank
        self.world_size = world_size

    def _exchange(self, image_features: Tensor, text_features: Tensor) -> Exchange:
        if self.world_size == 1:
            return SingleProcess(len(image_features))
        exchange = pair_exchange(image_features, text_features)
        if (exchange.rank, len(exchange.counts)) != (self.rank, self.world_size):
            raise ValueError(
                f"the loss is for rank {self.rank} of {self.world_size}, but this process is rank {exchange.rank} of "
                f"{len(exchange.counts)}"
            )
        return exchange

    def _per_rank(self, contribution: Tensor) -> Tensor:
        """A rank's own loss: the mean over ranks is that of the global batch."""
        return contribution * self.world_size

    def _global(self, contribution: Tensor, exchange: Exchange) -> Tensor:
        """The loss of the global batch on every rank, with the gradients of the rank's own."""
        whole = contribution.detach().reshape(1).clone()
        exchange.sum_(whole)
        own = self._per_rank(contribution)
        return own + (whole.reshape(()) - own.detach()) if self.world_size > 1 else own


class ClipLoss(_RankLoss):
    """CLIP's softmax loss.

    Args:
        local_loss: return the rank's own loss (of its rows) in place of the global batch's; gradients are the same.
        gather_with_grad: accepted; gradients always reach every rank's features.
        cache_labels: accepted; there are no label tensors to cache.
        rank: this process's rank.
        world_size: ranks that share the batch.
        use_horovod: must be false.

    Raises:
        ValueError: `use_horovod`.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        if use_horovod:
            raise ValueError("Horovod is not supported: use torch.distributed")
        super().__init__(rank, world_size)
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels
        self.use_horovod = use_horovod
        self._contrast = ContrastiveLoss()

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        """The column of the matching pair of each row of `get_logits`, int64 [num_logits]."""
        labels = torch.arange(num_logits, device=device, dtype=torch.long)
        return labels + num_logits * self.rank if self.world_size > 1 and self.local_loss else labels

    def get_logits(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of images by texts and of texts by images, as whole matrices (which the loss itself never makes)."""
        exchange = self._exchange(image_features, text_features)
        images, texts = image_features, text_features
        if self.world_size > 1:
            images, texts = (torch.cat(GatherRows.apply(t, exchange)) for t in (image_features, text_features))
        if self.local_loss:
            by_image, by_text = logit_scale * image_features @ texts.T, logit_scale * text_features @ images.T
        else:
            by_image = logit_scale * images @ texts.T
            by_text = by_image.T
        return (by_image, by_text) if logit_bias is None else (by_image + logit_bias, by_text + logit_bias)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss, or `{"contrastive_loss": ...}`. A bias has no influence on it."""
        loss = self._contrastive(image_features, text_features, logit_scale, logit_bias)
        return {"contrastive_loss": loss} if output_dict else loss

    def _contrastive(self, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        exchange = self._exchange(image, text)
        contribution = self._contrast(image, text, _number(scale, image), logit_bias=bias, exchange=exchange)
        return self._returned(contribution, exchange)

    def _returned(self, contribution: Tensor, exchange: Exchange) -> Tensor:
        return self._per_rank(contribution) if self.local_loss else self._global(contribution, exchange)


class CoCaLoss(ClipLoss):
    """CLIP's loss, and the captioning loss of CoCa: the mean over the tokens of the global batch.

    Args:
        caption_loss_weight: of the captioning loss.
        clip_loss_weight: of the contrastive loss; 0 skips it.
        pad_id: label that does not count.
        local_loss: see `ClipLoss`, as for the rest.
        gather_with_grad: see `ClipLoss`.
        cache_labels: see `ClipLoss`.
        rank: see `ClipLoss`.
        world_size: see `ClipLoss`.
        use_horovod: see `ClipLoss`.
    """

    def __init__(
        self,
        caption_loss_weight: float,
        clip_loss_weight: float,
        pad_id: int = 0,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__(local_loss, gather_with_grad, cache_labels, rank, world_size, use_horovod)
        self.clip_loss_weight = clip_loss_weight
        self.caption_loss_weight = caption_loss_weight
        self.pad_id = pad_id

    def forward(  # type: ignore[override]  # OpenCLIP's signature
        self,
        image_features: Tensor,
        text_features: Tensor,
        logits: Tensor,
        labels: Tensor,
        logit_scale: Tensor,
        output_dict: bool = False,
        *,
        logit_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        """Both weighted losses, as a tuple or as `{"contrastive_loss": ..., "caption_loss": ...}`.

        Args:
            image_features: [b, d], rows of unit length.
            text_features: [b, d], row i describes image i.
            logits: [b, t, vocabulary].
            labels: [b, t].
            logit_scale: inverse temperature.
            output_dict: return a dict.
            logit_bias: has no influence.
        """
        clip_loss = torch.tensor(0, device=logits.device)
        if self.clip_loss_weight:
            clip_loss = self.clip_loss_weight * self._contrastive(image_features, text_features, logit_scale)
        tokens = count_tokens(labels, self.pad_id).reshape(1)
        self._exchange(image_features, text_features).sum_(tokens)
        own = caption_loss(logits, labels, tokens=tokens.reshape(()), pad_id=self.pad_id)
        caption = self._per_rank(own) * self.caption_loss_weight
        return {"contrastive_loss": clip_loss, "caption_loss": caption} if output_dict else (clip_loss, caption)


class DistillClipLoss(ClipLoss):
    """CLIP's loss, and the cross-entropy of the similarities against a teacher's."""

    def forward(  # type: ignore[override]  # OpenCLIP's signature
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        dist_image_features: Tensor,
        dist_text_features: Tensor,
        dist_logit_scale: Tensor,
        output_dict: bool = False,
        *,
        logit_bias: Tensor | None = None,
        dist_logit_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        """Both losses, as a tuple or as `{"contrastive_loss": ..., "distill_loss": ...}`.

        Biases, which OpenCLIP's class does not take, cancel in both; no gradient reaches the teacher's features.
        """
        exchange = self._exchange(image_features, text_features)
        scale = _number(logit_scale, image_features)
        student = Features(image_features, text_features, scale, logit_bias)
        teacher_scale = _number(dist_logit_scale, dist_image_features)
        teacher = Features(dist_image_features, dist_text_features, teacher_scale, dist_logit_bias)
        contrastive = self._contrastive(image_features, text_features, scale, logit_bias)
        contribution = DistillationLoss(self._contrast.tile)(student, teacher, exchange=exchange)
        distill = self._returned(contribution, exchange)
        return {"contrastive_loss": contrastive, "distill_loss": distill} if output_dict else (contrastive, distill)


class SigLipLoss(_RankLoss):
    """SigLIP's sigmoid loss.

    Args:
        cache_labels: accepted; there are no label tensors to cache.
        rank: this process's rank.
        world_size: ranks that share the batch.
        dist_impl: bidir, shift, reduce or gather; one exchange serves for all of them, with the same result.
    """

    def __init__(
        self, cache_labels: bool = False, rank: int = 0, world_size: int = 1, dist_impl: str | None = None
    ) -> None:
        super().__init__(rank, world_size)
        self.cache_labels = cache_labels
        self.dist_impl = dist_impl or "bidir"
        assert self.dist_impl in _DIST_IMPLEMENTATIONS  # the exception type of OpenCLIP
        self._contrast = SigmoidLoss()

    def get_ground_truth(
        self, device: torch.device, dtype: torch.dtype, num_logits: int, negative_only: bool = False
    ) -> Tensor:
        """1 for matching pairs (unless `negative_only`) and -1 for others, [num_logits, num_logits]."""
        labels = -torch.ones((num_logits, num_logits), device=device, dtype=dtype)
        return labels if negative_only else labels.fill_diagonal_(1)

    def get_logits(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> Tensor:
        """Logits of the given images by the given texts, as a whole matrix."""
        logits = logit_scale * image_features @ text_features.T
        return logits if logit_bias is None else logits + logit_bias

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The rank's own loss, or `{"contrastive_loss": ...}`."""
        exchange = self._exchange(image_features, text_features)
        scale = _number(logit_scale, image_features)
        bias = None if logit_bias is None else _number(logit_bias, image_features)
        loss = self._per_rank(self._contrast(image_features, text_features, scale, logit_bias=bias, exchange=exchange))
        return {"contrastive_loss": loss} if output_dict else loss


def create_loss(args: Any) -> ClipLoss | SigLipLoss:
    """The loss that OpenCLIP's training arguments ask for.

    Args:
        args: with the attributes distill, model, siglip, local_loss, gather_with_grad, rank, world_size and, depending
            on the loss, coca_caption_loss_weight, coca_contrastive_loss_weight, loss_dist_impl; horovod may be missing.

    Raises:
        ValueError: `args.horovod` is set.
    """
    horovod = getattr(args, "horovod", False)
    if horovod:
        raise ValueError("Horovod is not supported: use torch.distributed")
    if args.siglip and not args.distill and "coca" not in args.model.lower():
        return SigLipLoss(rank=args.rank, world_size=args.world_size, dist_impl=args.loss_dist_impl)
    common = {
        "local_loss": args.local_loss,
        "gather_with_grad": args.gather_with_grad,
        "cache_labels": True,
        "rank": args.rank,
        "world_size": args.world_size,
    }
    if args.distill:
        return DistillClipLoss(**common)
    if "coca" in args.model.lower():
        return CoCaLoss(args.coca_caption_loss_weight, args.coca_contrastive_loss_weight, **common)
    return ClipLoss(**common)


def _number(value: Tensor | float, like: Tensor) -> Tensor:
    """As a tensor beside `like`; OpenCLIP's classes take plain numbers too."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=like.dtype, device=like.device)

"""The image tower: a vision transformer (arXiv 2010.11929)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clip_trainer.model.config import VisionConfig
from clip_trainer.model.init_streams import Streams
from clip_trainer.model.layers import make_norm
from clip_trainer.model.locks import LayerGroup, lock_groups
from clip_trainer.model.patch_dropout import PatchDropout
from clip_trainer.model.positions import sin_cos_2d
from clip_trainer.model.transformer import Transformer
from clip_trainer.model.vision_pool import VisionPool


class VisionTransformer(nn.Module):
    """Patches -> transformer -> pooled and projected feature.

    Args:
        config: shape of the tower.
        embed_dim: width of the shared embedding space.
        quick_gelu: activation of the MLPs.
        pooled_last_block: compute the last block for the class token only, where it alone is pooled (exact, faster).
    """

    def __init__(self, config: VisionConfig, embed_dim: int, *, quick_gelu: bool, pooled_last_block: bool) -> None:
        super().__init__()
        assert isinstance(config.layers, int)
        self.config = config
        self.image_size = self.image_hw = config.image_hw
        self.patch_size = config.patch_hw
        self.grid_size = config.grid_size
        self.output_dim = embed_dim
        self.output_tokens = config.output_tokens
        width = config.width
        self.conv1 = nn.Conv2d(3, width, kernel_size=self.patch_size, stride=self.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        learned = config.pos_embed_type == "learnable"
        self.positional_embedding = nn.Parameter(torch.empty(config.patches + 1, width), requires_grad=learned)
        self.patch_dropout = PatchDropout(config.patch_dropout)
        self.ln_pre = nn.Identity() if config.no_ln_pre else make_norm(width, config.norm_kwargs)
        self.transformer = Transformer(
            width=width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            options=config,
            quick_gelu=quick_gelu,
            causal=False,
        )
        self.pool = VisionPool(config)
        self.attn_pool, self.attn_pool_contrastive = self.pool.make_poolers(embed_dim)
        pool_width = width if self.attn_pool is None else embed_dim
        self.ln_post = make_norm(pool_width, config.norm_kwargs)
        self.proj = nn.Parameter(torch.empty(pool_width, embed_dim))
        self.pooled_last_block = pooled_last_block and self.pool.class_token_only

    def forward(self, image: Tensor) -> Any:
        """Embed normalised images [n, 3, height, width] as [n, embed_dim] (not L2-normalised).

        With `pool_type` none (or an attentional pool without a pooled token) the feature has all tokens: [n, tokens,
        embed_dim]. With `output_tokens` the result is a pair of it and the tokens [n, tokens, width].

        Raises:
            ValueError: the images have another size than the model's.
        """
        x = self.embed(image)
        if self.pooled_last_block:
            class_token = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            pooled = self.ln_post(self.transformer.at(x, class_token))
            return pooled @ self.proj
        pooled, tokens = self._pool(self.transformer(x))
        pooled = pooled @ self.proj
        return (pooled, tokens) if self.output_tokens else pooled

    def embed(self, image: Tensor) -> Tensor:
        """Patch and class embeddings plus positions: [n, 1 + patches, width], fewer with patch dropout."""
        if image.shape[-2:] != self.image_hw:
            given, wanted = ("x".join(map(str, size)) for size in (image.shape[-2:], self.image_hw))
            raise ValueError(f"images are {given}, the model takes {wanted}")
        patches = self.conv1(image).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = torch.cat([class_token, patches], dim=1) + self.positional_embedding.to(patches.dtype)
        embedded: Tensor = self.ln_pre(self.patch_dropout(x))
        return embedded

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NCHW",
        output_extra_tokens: bool = False,
    ) -> dict[str, Any]:
        """Tokens after the blocks, and the feature.

        Args:
            x: normalised images [n, 3, height, width].
            indices: wanted blocks: the last n, the given ones, or all (None).
            stop_early: compute no block after the last wanted one (the feature is then made from that one).
            normalize_intermediates: apply the final norm to each.
            intermediates_only: leave `image_features` out.
            output_fmt: "NCHW" (maps) or "NLC" (tokens).
            output_extra_tokens: also return the class tokens.

        Returns:
            `image_intermediates` (list of [n, width, rows, columns] or [n, patches, width]), `image_features` [n,
            embed_dim], and `image_intermediates_prefix` (list of [n, 1, width]) if asked for.

        Raises:
            ValueError: wrong format, index or image size.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is {output_fmt!r}; it must be NCHW or NLC")
        tokens, found = self.transformer.forward_intermediates(self.embed(x), indices=indices, stop_early=stop_early)
        if normalize_intermediates:
            found = [self.ln_post(item) for item in found]
        maps = [item[:, 1:] for item in found]
        if output_fmt == "NCHW":
            rows, columns = self.grid_size
            maps = [item.reshape(len(x), rows, columns, -1).permute(0, 3, 1, 2).contiguous() for item in maps]
        output: dict[str, Any] = {"image_intermediates": maps}
        if output_extra_tokens:
            output["image_intermediates_prefix"] = [item[:, :1] for item in found]
        if not intermediates_only:
            output["image_features"] = self._pool(tokens)[0] @ self.proj
        return output

    def set_patch_dropout(self, rate: float) -> None:
        """Change the share of patches left out in training (for schedules); ValueError unless 0 <= rate < 1."""
        self.patch_dropout.rate = rate

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass."""
        self.transformer.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that are never decayed although they have two dimensions."""
        return {"positional_embedding", "class_embedding"}

    def layer_groups(self) -> list[LayerGroup]:
        """Parts from input to output, in the groups that are frozen or decayed together.

        The attentional poolers belong to no group: OpenCLIP's lock always freezes them.
        """
        *blocks, last = self.transformer.resblocks
        stem: list[nn.Module | nn.Parameter] = [
            self.conv1,
            self.class_embedding,
            self.positional_embedding,
            self.ln_pre,
        ]
        middle = [LayerGroup(f"layer.{index}", [block]) for index, block in enumerate(blocks)]
        end = LayerGroup(f"layer.{len(blocks)}", [last, self.ln_post])
        return [LayerGroup("embeddings", stem), *middle, end, LayerGroup("proj", [self.proj])]

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze all but the last groups of `layer_groups` (see `clip_trainer.model.locks`).

        Args:
            unlocked_groups: how many stay trainable, counted from the projection.
            freeze_bn_stats: no effect here, there is no batch normalisation.
        """
        self.requires_grad_(False)
        lock_groups(self, self.layer_groups(), unlocked_groups, freeze_bn_stats=freeze_bn_stats)
        if self.config.pos_embed_type != "learnable":
            self.positional_embedding.requires_grad = False

    def init_parameters(self, streams: Streams, prefix: str) -> None:
        """Fill what is no layer; the layers keep torch's defaults, as OpenCLIP's do."""
        width = self.config.width
        for name in ("class_embedding", "positional_embedding", "proj"):
            streams.normal(getattr(self, name), width**-0.5, prefix + name)
        if self.config.pos_embed_type == "sin_cos_2d":
            streams.copy(self.positional_embedding, sin_cos_2d(width, *self.grid_size))

    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.pool(x, self.ln_post, self.attn_pool, self.attn_pool_contrastive)

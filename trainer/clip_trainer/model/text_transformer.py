"""The native text tower: a transformer pooled at one of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clip_trainer.model.attention import take_token
from clip_trainer.model.config import TextConfig
from clip_trainer.model.init_streams import Streams
from clip_trainer.model.init_text import init_text
from clip_trainer.model.layers import make_norm
from clip_trainer.model.locks import LayerGroup, lock_groups
from clip_trainer.model.transformer import Transformer


class TextTower(nn.Module):
    """The parts of the tower and what is computed with them; `CLIP` has them at its root, as OpenCLIP does.

    Args:
        config: shape of the tower.
        embed_dim: width of the shared embedding space.
        quick_gelu: activation of the MLPs.
        pooled_last_block: compute the last block for the pooled token only, where one token is pooled (exact, faster).
    """

    def __init__(self, config: TextConfig, embed_dim: int, *, quick_gelu: bool, pooled_last_block: bool) -> None:
        super().__init__()
        self.text_config = config
        self.context_length = config.context_length
        self.vocab_size = config.vocab_size
        self.output_tokens = config.output_tokens
        width = config.width
        positions = config.context_length + config.embed_cls
        self.cls_emb = nn.Parameter(torch.empty(width)) if config.embed_cls else None
        self.positional_embedding = nn.Parameter(torch.empty(positions, width))
        # Not nn.Embedding(...): its own normal_() on the meta device imports torch's compiler, 4 CPU-seconds a start.
        table = torch.empty(config.vocab_size, width)
        self.token_embedding = nn.Embedding.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]
        self.transformer = Transformer(
            width=width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            options=config,
            quick_gelu=quick_gelu,
            causal=not config.no_causal_mask,
        )
        self.ln_final = make_norm(width, config.norm_kwargs)
        self.text_projection = _projection(config, embed_dim)
        one_token = config.embed_cls or config.pool_type != "none"
        self.pooled_text_block = pooled_last_block and one_token and not config.output_tokens

    @property
    def truncates(self) -> bool:
        """Whether columns after the last wanted token can be left out: they reach the pooled token in no way."""
        config = self.text_config
        pooled_inside = config.pool_type in ("argmax", "eos", "first")
        return pooled_inside and not config.no_causal_mask and not config.embed_cls and not config.output_tokens

    def embed_text(self, text: Tensor, text_length: int | None = None) -> Tensor:
        """The text feature [n, embed_dim], not normalised; with `pool_type` none of all tokens [n, tokens, embed_dim].

        Args:
            text: [n, context_length] int64.
            text_length: columns to compute, at least the longest caption of the batch with its end-of-text token.
                Later columns are padding that a causal tower never shows to the pooled token, so the result is the
                same; where that is not so, all columns are computed. A Python int from the loader rather than a
                maximum taken here: no device synchronisation, and shapes stay known to a compiler. None computes all.
        """
        if text_length is not None and self.truncates:
            text = text[:, :text_length]
        x, visible = self._tokens(text)
        if not self.pooled_text_block:
            return self._features(self.transformer(x, visible), text)[0]
        pooled = self.transformer.at(x, self._pooled_index(text, x.shape[1]), visible)
        return self._project(self.ln_final(pooled))

    def embed_text_and_tokens(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """`embed_text`, and the states of all tokens [n, tokens, width] (normed, unless there is a class token)."""
        x, visible = self._tokens(text)
        return self._features(self.transformer(x, visible), text)

    def text_intermediates(
        self,
        text: Tensor,
        indices: int | Sequence[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_extra_tokens: bool = False,
    ) -> dict[str, Any]:
        """Token states after the blocks, and the feature.

        Args:
            text: [n, context_length] int64.
            indices: wanted blocks: the last n, the given ones, or all (None).
            stop_early: compute no block after the last wanted one (the feature is then made from that one).
            normalize_intermediates: apply the final norm to each.
            intermediates_only: leave `text_features` out.
            output_extra_tokens: also return the class tokens of a tower that has one.

        Returns:
            `text_intermediates` (list of [n, tokens, width]), `text_features` [n, embed_dim], and
            `text_intermediates_suffix` (list of [n, 1, width]) if asked for.

        Raises:
            ValueError: an index is out of range.
        """
        x, visible = self._tokens(text)
        x, found = self.transformer.forward_intermediates(x, visible, indices, stop_early)
        if normalize_intermediates:
            found = [self.ln_final(item) for item in found]
        output: dict[str, Any] = {"text_intermediates": found}
        if self.cls_emb is not None:
            output["text_intermediates"] = [item[:, :-1] for item in found]
            if output_extra_tokens:
                output["text_intermediates_suffix"] = [item[:, -1:] for item in found]
        if not intermediates_only:
            output["text_features"] = self._features(x, text)[0]
        return output

    def text_layer_groups(self) -> list[LayerGroup]:
        """Parts from input to output, in the groups that are frozen or decayed together."""
        *blocks, last = self.transformer.resblocks
        stem: list[nn.Module | nn.Parameter] = [self.token_embedding, self.positional_embedding]
        if self.cls_emb is not None:
            stem.append(self.cls_emb)
        groups = [LayerGroup("embeddings", stem)]
        groups += [LayerGroup(f"layer.{index}", [block]) for index, block in enumerate(blocks)]
        groups.append(LayerGroup(f"layer.{len(blocks)}", [last, self.ln_final]))
        if self.text_projection is not None:
            groups.append(LayerGroup("proj", [self.text_projection]))
        return groups

    def init_parameters(self, streams: Streams, prefix: str) -> None:
        """Fill the tower as the OpenAI code does."""
        init_text(self, self.text_config, streams, prefix)

    def _tokens(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embedded tokens, the class token last, and which keys each query sees (None: what the transformer knows)."""
        dtype = self.transformer.dtype
        x = self.token_embedding(text).to(dtype)
        visible = None
        if self.cls_emb is not None:
            x = torch.cat([x, self.cls_emb.to(dtype).expand(len(x), 1, -1)], dim=1)
            visible = self._visible(text)
        return x + self.positional_embedding[: x.shape[1]].to(dtype), visible

    def _visible(self, text: Tensor) -> Tensor:
        """Keys that each query of a tower with a class token sees: bool [n, 1, tokens + 1, tokens + 1].

        Padding is hidden. The mask is one place late, as if the class token came first: so were the published
        weights trained (OpenCLIP keeps it, and so its outputs are reproduced).
        """
        key_is_text = nn.functional.pad(text != self.text_config.pad_id, (1, 0), value=True)
        tokens = key_is_text.shape[1]
        visible = key_is_text[:, None, None, :].expand(-1, 1, tokens, -1)
        if not self.transformer.causal:
            return visible
        causal = torch.ones(tokens, tokens, dtype=torch.bool, device=text.device).tril()
        return visible & causal

    def _pooled_index(self, text: Tensor, tokens: int) -> Tensor:
        """The pooled token of each row: [n] int64."""
        kind = "last" if self.cls_emb is not None else self.text_config.pool_type
        if kind == "argmax":
            return text.argmax(dim=-1)
        if kind == "eos":
            # The first one; token 0 where there is none.
            return (text == self.text_config.eos_id).int().argmax(dim=-1)
        assert kind in ("first", "last")
        return torch.full((len(text),), tokens - 1 if kind == "last" else 0, device=text.device)

    def _features(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Feature and tokens from the output of the last block."""
        if self.cls_emb is not None:
            return self._project(self.ln_final(x[:, -1])), x[:, :-1]
        x = self.ln_final(x)
        pooled = x
        if self.text_config.pool_type != "none":
            pooled = take_token(x, self._pooled_index(text, x.shape[1])).squeeze(1)
        return self._project(pooled), x

    def _project(self, x: Tensor) -> Tensor:
        if self.text_projection is None:
            return x
        if isinstance(self.text_projection, nn.Parameter):
            return x @ self.text_projection
        projected: Tensor = self.text_projection(x)
        return projected


class TextTransformer(TextTower):
    """The tower as a module of its own, below `text` (for the arguments see `TextTower`)."""

    def forward(self, text: Tensor, text_length: int | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """`embed_text`; with `output_tokens` `embed_text_and_tokens`."""
        if self.output_tokens:
            return self.embed_text_and_tokens(text)
        return self.embed_text(text, text_length)

    def forward_intermediates(
        self,
        text: Tensor,
        indices: int | Sequence[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NLC",
        output_extra_tokens: bool = False,
    ) -> dict[str, Any]:
        """See `text_intermediates`; `output_fmt` must be "NLC" (ValueError)."""
        if output_fmt != "NLC":
            raise ValueError(f"output_fmt is {output_fmt!r}; a text tower has NLC only")
        return self.text_intermediates(
            text, indices, stop_early, normalize_intermediates, intermediates_only, output_extra_tokens
        )

    def layer_groups(self) -> list[LayerGroup]:
        """See `text_layer_groups`."""
        return self.text_layer_groups()

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze all but the last groups of `layer_groups` (see `clip_trainer.model.locks`).

        Args:
            unlocked_layers: how many groups stay trainable, counted from the projection.
            freeze_layer_norm: False leaves the layer norms of frozen groups trainable.
        """
        lock_groups(self, self.layer_groups(), unlocked_layers, freeze_layer_norm=freeze_layer_norm)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass."""
        self.transformer.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that are never decayed although they have two dimensions."""
        return {"positional_embedding"} | ({"cls_emb"} if self.cls_emb is not None else set())


def _projection(config: TextConfig, embed_dim: int) -> nn.Module | nn.Parameter | None:
    """What maps the pooled token to the shared space: a bare matrix, a linear layer where it has a bias, or nothing."""
    if config.proj_type == "none":
        return None
    if config.proj_bias:
        return nn.Linear(config.width, embed_dim)
    return nn.Parameter(torch.empty(config.width, embed_dim))

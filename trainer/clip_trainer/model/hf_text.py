"""A Hugging Face model as text tower: any encoder that `transformers.AutoModel` builds, pooled and projected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clip_trainer.model.config import TextConfig
from clip_trainer.model.hf_architecture import build_hf_model, hf_config, load_hf_model
from clip_trainer.model.hf_pooling import POOLERS
from clip_trainer.model.intermediates import wanted_indices
from clip_trainer.model.locks import LayerGroup, lock_groups
from clip_trainer.model.skip_fills import SkipFills
from clipctl.contract.errors import SpecError

_LAYER_LISTS = ("layer", "block", "layers", "h")
_EMBEDDINGS = ("embeddings", "embed_tokens", "wte", "shared")


class HFTextTower(nn.Module):
    """Tokens -> Hugging Face encoder -> pooling -> projection. Keys are OpenCLIP's (`transformer.*`, `proj.*`).

    On the meta device only shapes are made; call `materialise` before use.

    Args:
        config: the `hf_*` fields name the model, the pooling and the projection.
        embed_dim: width of the shared embedding space.
        architecture: `PretrainedConfig` to use in place of the one `config.hf_model_name` stands for.

    Raises:
        SpecError: unknown pooling, model or projection, or transformers is not installed.
    """

    def __init__(self, config: TextConfig, embed_dim: int, architecture: Any = None) -> None:
        super().__init__()
        if config.hf_pooler_type not in POOLERS:
            known = ", ".join(POOLERS)
            raise SpecError(f"There is no pooling called {config.hf_pooler_type!r}.", hint=f"Known: {known}.")
        assert config.hf_model_name is not None or architecture is not None
        self.name = config.hf_model_name or ""
        self.config = hf_config(self.name) if architecture is None else architecture
        self.pooler_type = config.hf_pooler_type
        self.output_tokens = config.output_tokens
        self.output_dim = embed_dim
        self.proj_type = config.hf_proj_type
        self.vocab_size = int(getattr(self.config, "vocab_size", 0))
        self.context_length = int(getattr(self.config, "max_position_embeddings", 0) or 0)
        with SkipFills():
            self.transformer = build_hf_model(self.config, pooling_layer=self._own_pooling)
        self.proj = _projection(self.proj_type, self.config.hidden_size, embed_dim)

    @property
    def _own_pooling(self) -> bool:
        return self.pooler_type == "cls_pooler"

    def materialise(self, seed: int, *, pretrained: bool) -> None:
        """Replace all parts by ones on the CPU with real weights.

        Args:
            seed: of fresh weights, which are a pure function of it. The global random state is left alone.
            pretrained: take the published weights of the model in place of fresh ones.

        Raises:
            MissingError: there are no such weights.
            UnavailableError: the hub cannot be reached.
        """
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            self.proj = _projection(self.proj_type, self.config.hidden_size, self.output_dim)
            if pretrained:
                self.transformer = load_hf_model(self.name, self.config, pooling_layer=self._own_pooling)
            else:
                self.transformer = build_hf_model(self.config, pooling_layer=self._own_pooling)
        self.train(self.training)

    def forward(self, text: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Embed token ids [n, tokens] as [n, embed_dim] (not L2-normalised); with `output_tokens` also their states.

        The states leave token 0 out where it is the pooled one (`cls_pooler`), as in OpenCLIP.
        """
        output, mask = self._encode(text)
        features = self._pool(output, mask)
        if not self.output_tokens:
            return features
        states: Tensor = output.last_hidden_state
        return features, states[:, 1:] if self.pooler_type == "cls_pooler" else states

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
        """Token states after each layer, and the feature.

        Args:
            text: [n, tokens] int64.
            indices: which layers: the last n, the given ones, or all (None).
            stop_early: no effect, the encoder runs as a whole.
            normalize_intermediates: no effect, layers of these models end with what they end with.
            intermediates_only: leave `text_features` out.
            output_fmt: "NLC".
            output_extra_tokens: no effect, there are none.

        Returns:
            `text_intermediates` (list of [n, tokens, width]) and `text_features` [n, embed_dim].

        Raises:
            ValueError: wrong format or index.
        """
        if output_fmt != "NLC":
            raise ValueError(f"output_fmt is {output_fmt!r}; a text tower has NLC only")
        output, mask = self._encode(text, output_hidden_states=True)
        states = output.hidden_states[1:]
        wanted = wanted_indices(len(states), indices)
        result: dict[str, Any] = {"text_intermediates": [state for i, state in enumerate(states) if i in wanted]}
        if not intermediates_only:
            result["text_features"] = self._pool(output, mask)
        return result

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the encoder; projection, and with unlocked layers everything behind the last layer, stay trainable.

        Args:
            unlocked_layers: how many of [embeddings, layer 0, layer 1, ...] stay trainable, counted from the end.
            freeze_layer_norm: False leaves the layer norms of frozen layers trainable.

        Raises:
            SpecError: some layers are to stay trainable, but where this architecture keeps its layers is not known.
        """
        groups = [LayerGroup("transformer", [self.transformer])] if not unlocked_layers else self.layer_groups()[:-1]
        lock_groups(self, groups, unlocked_layers, freeze_layer_norm=freeze_layer_norm)

    def layer_groups(self) -> list[LayerGroup]:
        """Embeddings, layers, and the projection with whatever else there is.

        Raises:
            SpecError: where this architecture keeps its layers is not known.
        """
        encoder = getattr(self.transformer, "encoder", self.transformer)
        layers = next((getattr(encoder, name) for name in _LAYER_LISTS if hasattr(encoder, name)), None)
        names = [name for name in _EMBEDDINGS if hasattr(self.transformer, name)]
        if layers is None or not names:
            raise SpecError(
                f"The layers of a {self.config.model_type} model cannot be told apart.",
                hint="Freeze the whole text tower (unlocked_layers: 0) or none of it.",
            )
        groups = [LayerGroup("embeddings", [getattr(self.transformer, names[0])])]
        groups += [LayerGroup(f"layer.{index}", [layer]) for index, layer in enumerate(layers)]
        taken = {id(parameter) for group in groups for parameter in group.parameters()}
        return [*groups, LayerGroup("proj", [p for p in self.parameters() if id(p) not in taken])]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the encoder's layers in the backward pass.

        Raises:
            SpecError: transformers cannot do that for this architecture.
        """
        # The methods got new names in transformers 5.
        model: Any = self.transformer
        new = hasattr(model, "activation_checkpointing_enable")
        name = "activation_checkpointing" if new else "gradient_checkpointing"
        if not enable:
            getattr(model, f"{name}_disable")()
            return
        try:
            getattr(model, f"{name}_enable")(**{f"{name}_kwargs": {"use_reentrant": False}})
        except ValueError:
            raise SpecError(
                f"transformers cannot recompute activations of a {self.config.model_type} model.",
                hint="Set model.grad_checkpointing: false.",
            ) from None
        if getattr(model, "_require_grads_hook", None) is not None:
            # transformers makes embeddings require gradients, for adapters: a frozen tower would run backwards.
            model.disable_input_require_grads()

    def no_weight_decay(self) -> set[str]:
        """Parameters that are never decayed although they have two dimensions (none, as in OpenCLIP)."""
        return set()

    def _encode(self, text: Tensor, **options: Any) -> tuple[Any, Tensor]:
        """The encoder's output, and a mask [n, tokens] that is 1 at text and 0 at padding."""
        pad = self.config.pad_token_id
        mask = torch.ones_like(text) if pad is None else (text != pad).long()
        return self.transformer(input_ids=text, attention_mask=mask, **options), mask

    def _pool(self, output: Any, mask: Tensor) -> Tensor:
        features: Tensor = self.proj(POOLERS[self.pooler_type](output, mask))
        return features


def _projection(kind: str | None, width: int, embed_dim: int) -> nn.Module:
    """The map to the shared space; without a kind there is none, which needs equal widths."""
    if kind == "linear":
        return nn.Linear(width, embed_dim, bias=False)
    if kind == "mlp":
        hidden = (width + embed_dim) // 2
        return nn.Sequential(nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, embed_dim, bias=False))
    if kind is not None or width != embed_dim:
        raise SpecError(
            f"The text model is {width} wide, the shared space {embed_dim}, and the projection is {kind!r}.",
            hint="Set text_cfg.hf_proj_type to linear or mlp.",
        )
    return nn.Identity()

"""What a text tower looks like, as data: OpenCLIP's `text_cfg`, and the decoder of CoCa: its `multimodal_cfg`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from clip_trainer.model.config_vision import BlockConfig


class TextConfig(BlockConfig):
    """A text tower: a transformer of our own, or (`hf_model_name`) one of Hugging Face's."""

    context_length: int = Field(77, gt=2)
    """Longest token sequence, start and end tokens included."""
    vocab_size: int = Field(49408, gt=2)
    """Number of token ids."""
    hf_tokenizer_name: str | None = None
    """Hugging Face repository of the tokenizer; None means the BPE tokenizer of CLIP."""
    tokenizer_mode: str | None = None
    """Special handling of that tokenizer (`clips`)."""
    tokenizer_kwargs: dict[str, Any] | None = None
    """Further arguments of the tokenizer."""
    width: int = Field(512, gt=0)
    """Width of the residual stream."""
    heads: int = Field(8, gt=0)
    """Number of attention heads; must divide `width`."""
    layers: int = Field(12, gt=0)
    """Number of residual blocks."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden width of the MLP divided by `width`."""
    embed_cls: bool = False
    """Append a learned token to the text, which then is the pooled one (CoCa)."""
    pad_id: int = Field(0, ge=0)
    """Token id of padding."""
    eos_id: int = Field(2, ge=0)
    """Token id of the end of the text, for `pool_type` eos."""
    no_causal_mask: bool = False
    """Let every token see every other, padding included."""
    final_ln_after_pool: bool = False
    """Accepted for OpenCLIP's sake, which reads it and does nothing with it."""
    pool_type: Literal["first", "last", "argmax", "eos", "none"] = "argmax"
    """Token that is the text feature: first, last, the one with the largest id, the first `eos_id`, or all tokens."""
    proj_bias: bool = False
    """Whether the final projection has a bias (it is then stored as a linear layer)."""
    proj_type: Literal["linear", "none"] = "linear"
    """Final projection to `embed_dim`, or none."""
    output_tokens: bool = False
    """Return all tokens beside the feature."""

    hf_model_name: str | None = None
    """Name or folder of a Hugging Face text model, which then is the tower."""
    hf_model_pretrained: bool = True
    """Start that tower from its published weights."""
    hf_proj_type: Literal["linear", "mlp"] | None = "mlp"
    """Projection after a Hugging Face tower."""
    hf_pooler_type: str = "mean_pooler"
    """Pooling of a Hugging Face tower: mean, max, cls or cls_last_hidden_state, followed by `_pooler`."""

    @property
    def kind(self) -> Literal["native", "hf"]:
        """Which implementation builds this tower."""
        return "hf" if self.hf_model_name else "native"

    @model_validator(mode="after")
    def _divides(self) -> TextConfig:
        if self.kind == "native" and self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class MultimodalConfig(TextConfig):
    """The decoder of CoCa (arXiv 2205.01917), which generates a caption from image tokens."""

    dim_head: int = Field(64, gt=0)
    """Accepted for OpenCLIP's sake, which does nothing with it."""
    n_queries: int = Field(256, gt=0)
    """Accepted for OpenCLIP's sake, which takes the image tower's `attn_pooler_queries`."""
    attn_pooler_heads: int = Field(8, gt=0)
    """Accepted for OpenCLIP's sake, which takes the image tower's."""

"""What an image tower looks like, as data: OpenCLIP's `vision_cfg`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


def _as_tuple(value: object) -> object:
    """JSON has lists only; a frozen configuration holds tuples."""
    return tuple(value) if isinstance(value, list) else value


_Size = Annotated[int, Field(gt=0)]
_Pair = Annotated[tuple[_Size, _Size], BeforeValidator(_as_tuple)]
_Stages = Annotated[tuple[_Size, _Size, _Size, _Size], BeforeValidator(_as_tuple)]


class ActKwargs(BaseModel):
    """Arguments of the activation of the MLPs."""

    model_config = STRICT

    approximate: Literal["none", "tanh"] = "none"
    """Formula of GELU: exact, or its tanh approximation (arXiv 1606.08415)."""


class NormKwargs(BaseModel):
    """Arguments of the layer norms."""

    model_config = STRICT

    eps: float = Field(default=1e-5, ge=0)
    """Added to the variance."""
    elementwise_affine: bool = True
    """Whether there is a learned weight (and bias)."""
    bias: bool = True
    """Whether there is a learned bias."""


class BlockConfig(BaseModel):
    """Parts of a residual block that both native towers can switch on."""

    model_config = STRICT

    ls_init_value: float | None = None
    """Initial value of layer scale (arXiv 2103.17239); None means that there is none."""
    act_kwargs: ActKwargs | None = None
    """Arguments of the activation."""
    norm_kwargs: NormKwargs | None = None
    """Arguments of the layer norms."""
    block_type: Literal["default", "custom"] | None = None
    """Kind of residual block; None takes "custom" as soon as one of the switches below is on."""
    qk_norm: bool = False
    """Layer norm on the queries and keys of every head (arXiv 2302.05442)."""
    scaled_cosine_attn: bool = False
    """Cosine similarity with a learned temperature per head in place of scaled dot products (arXiv 2111.09883)."""
    scale_heads: bool = False
    """Learned factor per head on its output (NormFormer, arXiv 2110.09456)."""
    scale_attn_inner: bool = False
    """Layer norm before the output projection of attention (Sub-LN, arXiv 2210.06423)."""
    scale_attn: bool = False
    """Layer norm after attention."""
    scale_fc: bool = False
    """Layer norm inside the MLP."""

    @property
    def custom_block(self) -> bool:
        """Whether blocks are of the custom kind, which changes the keys of the state dict."""
        attention = self.qk_norm or self.scaled_cosine_attn or self.scale_heads or self.scale_attn_inner
        switched = attention or self.scale_attn or self.scale_fc
        return self.block_type == "custom" or (self.block_type is None and switched)

    @model_validator(mode="after")
    def _one_attention(self) -> BlockConfig:
        if self.custom_block and self.qk_norm and self.scaled_cosine_attn:
            raise ValueError("qk_norm and scaled_cosine_attn exclude each other")
        return self


class VisionConfig(BlockConfig):
    """An image tower: a vision transformer, a modified ResNet (`layers` has four numbers), or one made by timm."""

    image_size: _Size | _Pair = 224
    """Input size in pixels: one side, or height and width."""
    patch_size: _Size | _Pair | None = 16
    """Size of one patch in pixels; None for a ResNet. What is left over at the right and bottom edge is not seen."""
    width: int = Field(768, gt=0)
    """Width of the residual stream (ResNet: channels of the first stage)."""
    layers: _Size | _Stages = 12
    """Number of residual blocks; four numbers, one a stage, make a ResNet."""
    head_width: int = Field(64, gt=0)
    """Width of one attention head."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden width of the MLP divided by `width`."""
    patch_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of patches left out in training (FLIP, arXiv 2212.00794)."""
    attentional_pool: bool | Literal["parallel", "cascade"] = False
    """Pool by cross attention from learned queries; the two names add a second pooler for the contrastive feature."""
    attn_pooler_queries: int = Field(256, gt=0)
    """Number of learned queries of the attentional pooler."""
    attn_pooler_heads: int = Field(8, gt=0)
    """Number of heads of the attentional pooler."""
    no_ln_pre: bool = False
    """Leave out the layer norm before the transformer."""
    pos_embed_type: Literal["learnable", "sin_cos_2d"] = "learnable"
    """Learned positions, or fixed sines and cosines of row and column."""
    final_ln_after_pool: bool = False
    """Apply the final layer norm to the pooled token in place of all tokens."""
    pool_type: Literal["tok", "avg", "none"] = "tok"
    """What the image feature is: the class token, the mean of the patches, or all tokens."""
    output_tokens: bool = False
    """Return the patch tokens beside the feature."""

    timm_model_name: str | None = None
    """Name of a timm architecture, which then is the tower (`width`, `layers`, `patch_size` do not matter)."""
    timm_model_pretrained: bool = False
    """Start from the weights timm publishes for it."""
    timm_pool: str = "avg"
    """Pooling of the timm tower: avg, token, map, abs_attn, rot_attn or empty (timm's own choice)."""
    timm_proj: str | None = "linear"
    """Projection of the timm tower: linear, mlp, or none."""
    timm_proj_bias: bool = False
    """Whether that projection has a bias."""
    timm_drop: float = 0.0
    """Dropout rate before that projection."""
    timm_drop_path: float | None = None
    """Stochastic depth of the timm tower."""

    @property
    def kind(self) -> Literal["vit", "resnet", "timm"]:
        """Which implementation builds this tower."""
        if self.timm_model_name:
            return "timm"
        return "resnet" if isinstance(self.layers, tuple) else "vit"

    @model_validator(mode="after")
    def _divides(self) -> VisionConfig:
        if self.kind != "vit":
            return self
        if self.patch_size is None:
            raise ValueError("patch_size is missing")
        if min(self.grid_size) < 1:
            raise ValueError(f"patch_size {self.patch_size} is larger than image_size {self.image_size}")
        if not self.heads or self.width % self.heads:
            raise ValueError(f"head_width {self.head_width} does not divide width {self.width}")
        if self.pos_embed_type == "sin_cos_2d" and self.width % 4:
            raise ValueError(f"pos_embed_type sin_cos_2d needs a width divisible by 4, not {self.width}")
        return self

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the input, pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def patch_hw(self) -> tuple[int, int]:
        """Height and width of one patch, pixels."""
        assert self.patch_size is not None
        return self.patch_size if isinstance(self.patch_size, tuple) else (self.patch_size, self.patch_size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        (height, width), (patch_height, patch_width) = self.image_hw, self.patch_hw
        return height // patch_height, width // patch_width

    @property
    def heads(self) -> int:
        """Number of attention heads (ResNet: of the attention pool, which is 32 times wider than the first stage)."""
        return self.width * (32 if self.kind == "resnet" else 1) // self.head_width

    @property
    def patches(self) -> int:
        """Number of patches of one image (the class token comes on top)."""
        rows, columns = self.grid_size
        return rows * columns

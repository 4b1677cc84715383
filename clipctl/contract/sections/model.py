"""Which model to train: architecture, precision, initial weights, what is frozen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from clipctl.contract.sections.base import Fraction, Location, NonNegativeInt, PositiveFloat, PositiveInt, Section

PrecisionName = Literal["fp32", "amp", "amp_bf16", "amp_bfloat16", "bf16", "fp16", "pure_bf16", "pure_fp16"]
Channels = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=3, max_length=3, strict=False)
]
ImageSize = PositiveInt | Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=2, strict=False)]


class LockImageSection(Section):
    """Train with a frozen image tower (LiT, arXiv 2111.07991)."""

    unlocked_groups: NonNegativeInt = 0
    """Groups of layers left trainable, counted from the output. Default 0: the whole tower is frozen."""

    freeze_bn_stats: bool = False
    """Also freeze the running statistics of batch normalisation in the frozen part. Default false, as OpenCLIP."""


class LockTextSection(Section):
    """Train with a frozen text tower."""

    unlocked_layers: NonNegativeInt = 0
    """Groups of layers left trainable, counted from the output. Default 0: the whole tower is frozen."""

    freeze_layer_norm: bool = True
    """Also freeze the layer norms of the frozen layers. Default true; false leaves them trainable."""


class PreprocessSection(Section):
    """Overrides of how evaluation images become model input. Default: what the model or its weights ask for."""

    mean: Channels | None = None
    """Per-channel mean, 0 to 1."""

    std: Channels | None = None
    """Per-channel standard deviation."""

    interpolation: Literal["bicubic", "bilinear"] | None = None
    """Resampling filter."""

    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    """Scale the shorter side and cut, scale the longer side and pad, or ignore the aspect ratio."""


class ModelSection(Section):
    """Which model to train, and in which precision."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """Model name, as `ViT-B-32`. Names that OpenCLIP has mean the same architecture and the same weight layout."""

    config: Location | None = None
    """JSON file with the architecture in OpenCLIP's layout, for a model that is not built in; `name` is then free."""

    pretrained: Location | None = None
    """Weights to start from: a tag of the registry (`laion2b_s34b_b79k`), a file, or a URL. Default: random weights.
    Ignored once the run has a checkpoint of its own."""

    precision: PrecisionName = "amp_bf16"
    """Arithmetic of the forward and backward pass, in OpenCLIP's names. Default `amp_bf16`: fp32 weights, bf16
    autocast; about 1.7 times faster than fp32 on bf16-capable CPUs and GPUs, and without loss scaling. `amp` is fp16
    with loss scaling."""

    quick_gelu: bool | None = None
    """Use QuickGELU in place of GELU. Default: what the model's configuration says, and weights that were made with
    the other one are refused. Any value says that you know better."""

    custom_text: bool = False
    """Build the text tower as a module of its own (`text.*` keys in the weights). Default false."""

    image_size: ImageSize | None = None
    """Input size in pixels, one number or height and width; position embeddings are resized to it. Default: the
    configuration's."""

    context_length: PositiveInt | None = None
    """Longest token sequence; position embeddings are resized to it. Default: the configuration's."""

    patch_dropout: Fraction | None = None
    """Share of image patches left out in training (FLIP, arXiv 2212.00794). Default: the configuration's."""

    init_logit_scale: PositiveFloat | None = None
    """Initial log of the inverse temperature. Default: the configuration's (ln 1/0.07), or ln 10 with SigLIP's loss."""

    init_logit_bias: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Initial logit bias. Default: the configuration's, or -10 with SigLIP's loss."""

    pretrained_image: bool = False
    """Start a timm image tower from its ImageNet weights. Default false."""

    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time. Default false."""

    compile: bool = False
    """Compile the towers with torch.compile. Default false: the first steps of every start take minutes longer."""

    lock_image: LockImageSection | None = None
    """Freeze the image tower. Default: all of it is trained."""

    lock_text: LockTextSection | None = None
    """Freeze the text tower. Default: all of it is trained."""

    preprocess: PreprocessSection = PreprocessSection()
    """Overrides of evaluation preprocessing and normalisation."""

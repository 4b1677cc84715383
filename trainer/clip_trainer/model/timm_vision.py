"""A model of timm as image tower: convolutional networks, EVA, SigLIP, MobileCLIP, ViTamin and whatever else it has."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from clip_trainer.model.checkpointing import hold_statistics_in_backward
from clip_trainer.model.config import VisionConfig
from clip_trainer.model.frozen_batch_norm import freeze_batch_norms
from clip_trainer.model.locks import LayerGroup, lock_groups
from clip_trainer.model.skip_fills import SkipFills
from clipctl.contract.errors import SpecError, UnavailableError

_OWN_POOLS = ("abs_attn", "rot_attn")
_PROJECTIONS = ("linear", "mlp")


class TimmVision(nn.Module):
    """Image -> timm network (`trunk.*`) -> pooling and projection of ours (`head.*`), with OpenCLIP's keys.

    On the meta device only shapes are made; call `materialise` before use. The network keeps the input size timm
    gives it, whatever `config.image_size` says (as in OpenCLIP); `set_input_size` changes it.

    Args:
        config: the `timm_*` fields name the network, its pooling and its projection.
        embed_dim: width of the shared embedding space.

    Raises:
        SpecError: timm is not installed, does not know the model, or cannot build it in this way.
    """

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        self.settings = config
        self.output_dim = embed_dim
        self.image_size = config.image_hw
        self._forced_size: tuple[int, int] | None = None
        with SkipFills():
            self.trunk, self.head = _build(config, embed_dim, pretrained=False)

    def materialise(self, seed: int, *, pretrained: bool) -> None:
        """Replace all parts by ones on the CPU with real weights.

        Args:
            seed: of fresh weights, which are a pure function of it. The global random state is left alone.
            pretrained: take the (ImageNet) weights timm publishes for the network.

        Raises:
            UnavailableError: they cannot be fetched.
        """
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            self.trunk, self.head = _build(self.settings, self.output_dim, pretrained=pretrained)
        if self._forced_size is not None:
            self.set_input_size(self._forced_size)
        self.train(self.training)

    def forward(self, image: Tensor) -> Tensor:
        """Embed normalised images [n, 3, height, width] as [n, embed_dim] (not L2-normalised)."""
        features: Tensor = self.head(self.trunk(image))
        return features

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
        """What the network's own `forward_intermediates` gives, and the feature.

        Args:
            x: normalised images [n, 3, height, width].
            indices: which of the network's maps: the last n, the given ones, or all (None).
            stop_early: do not compute what comes after the last wanted map.
            normalize_intermediates: apply the network's final norm to the maps.
            intermediates_only: leave `image_features` out.
            output_fmt: "NCHW" or, where the network is a transformer, "NLC".
            output_extra_tokens: also return class and register tokens as `image_intermediates_prefix`.

        Returns:
            `image_intermediates` (list of tensors) and `image_features` [n, embed_dim].
        """
        extra = {"return_prefix_tokens": True} if output_extra_tokens else {}
        trunk: Any = self.trunk
        result = trunk.forward_intermediates(
            x,
            indices=list(indices) if isinstance(indices, Sequence) else indices,
            intermediates_only=intermediates_only,
            norm=normalize_intermediates,
            stop_early=stop_early,
            output_fmt=output_fmt,
            **extra,
        )
        maps = result if intermediates_only else result[1]
        output: dict[str, Any] = {}
        if maps and isinstance(maps[0], tuple):
            output["image_intermediates_prefix"] = [prefix for _, prefix in maps]
            maps = [spatial for spatial, _ in maps]
        output["image_intermediates"] = maps
        if not intermediates_only:
            output["image_features"] = self.head(trunk.forward_head(result[0]))
        return output

    def set_input_size(self, image_size: int | tuple[int, int]) -> None:
        """Expect images of another size; position embeddings are resized. A no-op for networks that take any size.

        Args:
            image_size: side, or height and width, pixels.
        """
        height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
        self.image_size = self._forced_size = (height, width)
        trunk: Any = self.trunk
        if hasattr(trunk, "set_input_size"):
            trunk.set_input_size((height, width))

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the network but its last groups; what is ours behind it (`head`) stays trainable, as in OpenCLIP.

        Args:
            unlocked_groups: how many of timm's layer groups stay trainable, counted from the output.
            freeze_bn_stats: also freeze the running statistics of the frozen groups.
        """
        if not unlocked_groups:
            self.trunk.requires_grad_(False)
            if freeze_bn_stats:
                freeze_batch_norms(self.trunk)
            return
        lock_groups(self.trunk, self._trunk_groups(), unlocked_groups)
        if freeze_bn_stats:
            freeze_batch_norms(self.trunk, self._modules_before(unlocked_groups))

    def layer_groups(self) -> list[LayerGroup]:
        """The layer groups of timm from input to output, then what is ours."""
        return [*self._trunk_groups(), LayerGroup("proj", [self.head])]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the network's blocks in the backward pass.

        Raises:
            SpecError: timm cannot do that for this network.
        """
        trunk: Any = self.trunk
        try:
            trunk.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError):
            raise SpecError(
                f"timm cannot recompute activations of {self.settings.timm_model_name}.",
                hint="Set model.grad_checkpointing: false.",
            ) from None
        if enable:
            hold_statistics_in_backward(self.trunk)

    def no_weight_decay(self) -> set[str]:
        """Parameters that are never decayed although they have two dimensions (none, as in OpenCLIP 3.3.0)."""
        return set()

    def _trunk_groups(self) -> list[LayerGroup]:
        from timm.models import group_parameters

        trunk: Any = self.trunk
        groups = group_parameters(trunk, trunk.group_matcher())
        return [
            LayerGroup(f"layer.{index}", [self.trunk.get_parameter(name) for name in groups[index]])
            for index in range(max(groups) + 1)
        ]

    def _modules_before(self, unlocked_groups: int) -> set[str]:
        """Names of the network's modules that are not in the last `unlocked_groups` groups."""
        from timm.models import group_modules, group_parameters

        trunk: Any = self.trunk
        matcher = trunk.group_matcher()
        last = max(group_parameters(trunk, matcher)) - unlocked_groups
        return {name for name, index in group_modules(trunk, matcher, reverse=True).items() if index <= last}


def timm_module() -> ModuleType:
    """The `timm` package.

    Raises:
        SpecError: it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise SpecError(
            "The image tower is a timm model, but the package timm is not installed.",
            hint="Install it: pip install 'clipctl[timm]'.",
        ) from None
    module: ModuleType = timm
    return module


def _build(config: VisionConfig, embed_dim: int, *, pretrained: bool) -> tuple[nn.Module, nn.Sequential]:
    """Network and head, with errors that say what to do."""
    name = config.timm_model_name
    try:
        return _parts(config, embed_dim, pretrained)
    except OSError as error:
        raise UnavailableError(
            f"The weights of timm's {name!r} could not be fetched: {error}",
            hint="Check the network, set HF_ENDPOINT to a mirror, or set model.pretrained_image: false.",
        ) from None
    except (RuntimeError, TypeError, AssertionError) as error:
        raise SpecError(f"timm cannot build {name!r}: {error}", hint="Check the timm_* fields.") from None


def _parts(config: VisionConfig, embed_dim: int, pretrained: bool) -> tuple[nn.Module, nn.Sequential]:
    """The network's own classifier is the projection if neither pooling nor projection is ours."""
    create = timm_module().create_model
    name, pool, proj = config.timm_model_name, config.timm_pool, config.timm_proj
    options: dict[str, Any] = {"pretrained": pretrained}
    if config.timm_drop_path is not None:
        options["drop_path_rate"] = config.timm_drop_path
    if config.patch_dropout > 0:
        options["patch_drop_rate"] = config.patch_dropout
    if proj not in (None, "", "none", *_PROJECTIONS):
        raise SpecError(f"There is no projection called {proj!r}.", hint="Known: linear, mlp, none.")
    if pool not in _OWN_POOLS and proj not in _PROJECTIONS:
        classes = 0 if proj == "none" else embed_dim
        return create(name, num_classes=classes, global_pool=pool, **options), nn.Sequential()
    trunk = create(name, **options)
    if pool in _OWN_POOLS:
        trunk.reset_classifier(0, global_pool="")
    else:
        # An empty name leaves the network its own pooling.
        trunk.reset_classifier(0, **({"global_pool": pool} if pool else {}))
    return trunk, _head(trunk, config, embed_dim)


def _head(trunk: Any, config: VisionConfig, embed_dim: int) -> nn.Sequential:
    """Pooling by attention and projection, as far as the configuration asks for them."""
    layers: Any = import_module("timm.layers")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    width = trunk.num_features
    feature_size = trunk.default_cfg.get("pool_size", None)
    if config.timm_pool in _OWN_POOLS:
        if not feature_size:
            raise SpecError(
                f"{config.timm_pool!r} pools a map, but {config.timm_model_name!r} gives tokens.",
                hint="Set timm_pool to avg, token or map.",
            )
        if config.timm_pool == "abs_attn":
            parts["pool"] = layers.AttentionPool2d(width, feat_size=feature_size, out_features=embed_dim)
        else:
            parts["pool"] = layers.RotAttentionPool2d(width, out_features=embed_dim)
        width = embed_dim
    if config.timm_proj == "linear":
        parts["drop"] = nn.Dropout(config.timm_drop)
        parts["proj"] = nn.Linear(width, embed_dim, bias=config.timm_proj_bias)
    elif config.timm_proj == "mlp":
        bias, drop = (True, config.timm_proj_bias), (config.timm_drop, 0.0)
        parts["mlp"] = layers.Mlp(width, 2 * embed_dim, embed_dim, drop=drop, bias=bias)
    return nn.Sequential(parts)

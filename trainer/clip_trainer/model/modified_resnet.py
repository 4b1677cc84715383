"""The ResNet of CLIP (arXiv 2103.00020, section 2.4): three stem convolutions, blur pooling, attention pooling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_trainer.model.checkpointing import recompute
from clip_trainer.model.config import VisionConfig
from clip_trainer.model.init_streams import Streams
from clip_trainer.model.intermediates import wanted_indices
from clip_trainer.model.locks import LayerGroup, lock_groups

STAGES = ("layer1", "layer2", "layer3", "layer4")
_STRIDE = 32  # of the last stage against the image: stem 4, then 1, 2, 2, 2


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; striding is average pooling, so that nothing is skipped.

    Args:
        inputs: channels of the input.
        planes: channels of the 3x3 convolution; the output has four times as many.
        stride: factor the map shrinks by.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            parts["-1"] = nn.AvgPool2d(stride)
            parts["0"] = nn.Conv2d(inputs, outputs, 1, bias=False)
            parts["1"] = nn.BatchNorm2d(outputs)
            self.downsample = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, height, width] to [n, 4 planes, height / stride, width / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu_(self.bn1(self.conv1(x)))
        x = functional.relu_(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(self.avgpool(x)))
        return functional.relu_(x + shortcut)


class AttentionPool2d(nn.Module):
    """Attention whose one query is the mean of the map.

    Args:
        positions: pixels of the map.
        width: channels of the map.
        heads: attention heads.
        outputs: width of the result.
    """

    def __init__(self, positions: int, width: int, heads: int, outputs: int) -> None:
        super().__init__()
        assert width % heads == 0
        self.positional_embedding = nn.Parameter(torch.empty(positions + 1, width))
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, outputs)
        self.num_heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """Pool [n, width, height, width] to [n, outputs]."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + self.positional_embedding.to(x.dtype)
        query, key, value = self._split(self.q_proj(x[:, :1])), self._split(self.k_proj(x)), self._split(self.v_proj(x))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        pooled: Tensor = self.c_proj(mixed.flatten(1))
        return pooled

    def _split(self, x: Tensor) -> Tensor:
        """[n, tokens, width] -> [n, heads, tokens, head width]."""
        rows, tokens, width = x.shape
        return x.reshape(rows, tokens, self.num_heads, width // self.num_heads).transpose(1, 2)


class ModifiedResNet(nn.Module):
    """The tower: stem, four stages, attention pooling. Parameters are filled by `clip_trainer.model.init`.

    Args:
        config: shape of the tower (`layers` has four numbers).
        embed_dim: width of the shared embedding space.
    """

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        assert isinstance(config.layers, tuple)
        self.image_size = config.image_size
        self.image_hw = config.image_hw
        self.output_dim = embed_dim
        self.grad_checkpointing = False
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, kernel_size=3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        inputs = width
        for stage, (name, blocks) in enumerate(zip(STAGES, config.layers, strict=True)):
            planes = width * 2**stage
            setattr(self, name, _stage(inputs, planes, blocks, stride=1 if stage == 0 else 2))
            inputs = planes * Bottleneck.expansion
        height, across = (side // _STRIDE for side in config.image_hw)
        self.attnpool = AttentionPool2d(height * across, inputs, config.heads, embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Embed normalised images [n, 3, height, width] as [n, embed_dim] (not L2-normalised).

        Raises:
            ValueError: the images have another size than the model's.
        """
        self._check(image)
        x = self.stem(image)
        for stage in self._stages():
            x = self._run(stage, x)
        pooled: Tensor = self.attnpool(x)
        return pooled

    def stem(self, x: Tensor) -> Tensor:
        """Three convolutions and an average pool: a quarter of the size."""
        x = functional.relu_(self.bn1(self.conv1(x)))
        x = functional.relu_(self.bn2(self.conv2(x)))
        x = functional.relu_(self.bn3(self.conv3(x)))
        pooled: Tensor = self.avgpool(x)
        return pooled

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
        """The maps after the stem and the four stages, and the feature.

        Args:
            x: normalised images [n, 3, height, width].
            indices: which of the five maps: the last n, the given ones, or all (None).
            stop_early: with `intermediates_only`, do not compute what comes after the last wanted map.
            normalize_intermediates: no effect here, there is no final norm.
            intermediates_only: leave `image_features` out.
            output_fmt: "NCHW".
            output_extra_tokens: no effect here, there are none.

        Returns:
            `image_intermediates` (list of [n, channels, rows, columns]) and `image_features` [n, embed_dim].

        Raises:
            ValueError: wrong format or index.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; a ResNet has NCHW only")
        self._check(x)
        wanted = wanted_indices(1 + len(STAGES), indices)
        steps: list[Callable[[Tensor], Tensor]] = [self.stem]
        steps += [partial(self._run, stage) for stage in self._stages()]
        if intermediates_only and stop_early:
            steps = steps[: max(wanted) + 1]
        maps = []
        for index, step in enumerate(steps):
            x = step(x)
            if index in wanted:
                maps.append(x)
        output: dict[str, Any] = {"image_intermediates": maps}
        if not intermediates_only:
            output["image_features"] = self.attnpool(x)
        return output

    def init_parameters(self, streams: Streams, prefix: str) -> None:
        """Fill the attention pool, and the last norm of every block; all else has torch's defaults.

        That norm starts at zero, so that every block starts as its shortcut.

        Args:
            streams: random numbers.
            prefix: of the parameters' names, from the root of the model.
        """
        for block in (module for module in self.modules() if isinstance(module, Bottleneck)):
            streams.fill(block.bn3.weight, 0.0)
        pool = self.attnpool
        std = pool.c_proj.in_features**-0.5
        streams.normal(pool.positional_embedding, std, f"{prefix}attnpool.positional_embedding")
        for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
            streams.normal(getattr(pool, name).weight, std, f"{prefix}attnpool.{name}.weight")

    def layer_groups(self) -> list[LayerGroup]:
        """All parts from input to output, in the groups that are frozen or decayed together."""
        stem = [self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3]
        stages = [LayerGroup(f"layer.{index}", [stage]) for index, stage in enumerate(self._stages())]
        return [LayerGroup("embeddings", stem), *stages, LayerGroup("proj", [self.attnpool])]

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze all but the last groups of `layer_groups` (see `clip_trainer.model.locks`).

        Args:
            unlocked_groups: how many stay trainable, counted from the attention pool.
            freeze_bn_stats: also freeze the running statistics of the frozen groups.
        """
        lock_groups(self, self.layer_groups(), unlocked_groups, freeze_bn_stats=freeze_bn_stats)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that are never decayed although they have two dimensions (none, as in OpenCLIP)."""
        return set()

    def _stages(self) -> list[nn.Sequential]:
        stages = [getattr(self, name) for name in STAGES]
        assert all(isinstance(stage, nn.Sequential) for stage in stages)
        return stages

    def _run(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        for block in stage:
            x = recompute(block, x, enabled=self.grad_checkpointing and self.training)
        return x

    def _check(self, image: Tensor) -> None:
        if tuple(image.shape[-2:]) != self.image_hw:
            (height, width), (rows, columns) = image.shape[-2:], self.image_hw
            raise ValueError(f"images are {height}x{width}, the model takes {rows}x{columns}")


def _stage(inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one width, the first of which shrinks the map."""
    first = Bottleneck(inputs, planes, stride)
    return nn.Sequential(first, *(Bottleneck(planes * Bottleneck.expansion, planes) for _ in range(1, blocks)))

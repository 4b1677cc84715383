"""Every rank keeps 1/N of weights, gradients and optimiser state: torch's FSDP2 (`fully_shard`).

The unit of sharding is the residual block; what is outside of the blocks belongs to the root. A unit's weights are
gathered when it computes and dropped when it has (ZeRO stage 3, arXiv 1910.02054), in the backward pass too, where its
gradient is reduced and scattered. All of that is collective: ranks must put equally many micro-batches through the
model. Each micro-batch pays for it, so `train.micro_batch` should be as large as memory allows.

Temperature and bias are single numbers, which FSDP2 does not shard: every rank has them, and their gradients are
summed like those of a replicated model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from clip_trainer.elastic.beacon import current as beacon
from clip_trainer.model import ClipModel
from clip_trainer.model.text_transformer import TextTower
from clip_trainer.model.transformer import ResidualAttentionBlock
from clip_trainer.model.vit import VisionTransformer
from clip_trainer.train.group import Group
from clipctl.contract.errors import SpecError

_HINT = "Set train.parallel to ddp."
_meshes = itertools.count(1)
_WHOLE = ("logit_scale", "logit_bias")


class Sharded:
    """Fully sharded data parallel training. See `strategy.Parallel` for the methods.

    Args:
        group: the ranks, more than one; their process group must exist, and the model lives and dies with it.
    """

    equal_pieces = True

    def __init__(self, group: Group) -> None:
        assert group.world > 1
        self._group = group
        self._mesh: DeviceMesh | None = None

    def adopt(self, model: ClipModel) -> None:
        """Replace the model's parameters by shards of them. See `Parallel.adopt`."""
        _check(model)
        # DTensor caches by mesh, and takes meshes of equal ranks and names for one, also those of groups that are gone.
        name = f"ranks-{next(_meshes)}"
        self._mesh = mesh = init_device_mesh(self._group.device.type, (self._group.world,), mesh_dim_names=(name,))
        for block in [module for module in model.modules() if isinstance(module, ResidualAttentionBlock)]:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
            register_fsdp_forward_method(block, "at")
        ignored = {parameter for name, parameter in model.named_parameters() if name in _WHOLE}
        fully_shard(model, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
        for method in ("encode_image", "encode_text"):
            register_fsdp_forward_method(model, method)
        for unit in _units(model):
            unit.set_gradient_divide_factor(1.0)
            # Gloo has no other reduction, and with it NCCL rounds as gloo does.
            unit.set_force_sum_reduction_for_comms(True)

    def release(self) -> None:
        """DTensor's caches keep the mesh, and the mesh would keep the process group's threads and sockets."""
        if self._mesh is not None:
            self._mesh._pg_registry.clear()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Only those of what is not sharded: the backward pass has summed the others."""
        self._group.sum_gradients(parameter for parameter in parameters if not isinstance(parameter, DTensor))

    @torch.no_grad()
    def clip_gradient_norm(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
        """The norm is the root of the sum over ranks of the squares of their shards, the same on every rank."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        shards = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
        others = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
        squares = self._group.sum(torch.nn.utils.get_total_norm(shards).square())
        norm = (squares + torch.nn.utils.get_total_norm(others).square()).sqrt()
        if max_norm is not None:
            factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)  # as torch.nn.utils.clip_grad_norm_
            for gradient in (*shards, *others):
                gradient.mul_(factor.to(gradient.dtype))
        return norm

    @contextmanager
    def whole(self, model: ClipModel) -> Iterator[None]:
        """Every unit is gathered once and stays so. See `Parallel.whole`."""
        units = _units(model)
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        try:
            yield
        finally:
            for unit in units:
                unit.reshard()
                unit.set_reshard_after_forward(True, recurse=False)

    def computing(self) -> AbstractContextManager[object]:
        """Every unit of the model waits for peers, so all of it counts as waiting."""
        return beacon().waiting_for_peers()


def _units(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _check(model: ClipModel) -> None:
    """Refuse what FSDP2 would not do right: towers of other libraries, batch statistics, several types in a unit."""
    towers = model.visual, getattr(model, "text", model)
    if not (isinstance(towers[0], VisionTransformer) and isinstance(towers[1], TextTower)):
        raise SpecError("train.parallel fsdp needs native towers: a ViT and CLIP's text transformer.", hint=_HINT)
    dtypes = {parameter.dtype for name, parameter in model.named_parameters() if name not in _WHOLE}
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise SpecError(f"train.parallel fsdp needs weights of one type, not {names} (model.precision).", hint=_HINT)

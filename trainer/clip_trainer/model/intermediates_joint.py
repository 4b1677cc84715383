"""Putting the intermediate results of two towers into one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn import functional

if TYPE_CHECKING:
    from clip_trainer.model.clip_model import ClipModel


def joint_output(
    model: ClipModel, towers: dict[str, Any], normalize: bool, logits: bool, scale_bias: bool
) -> dict[str, Any]:
    """What `ClipModel.forward_intermediates` returns, from what the towers returned.

    Args:
        model: for its temperature and bias.
        towers: results of the towers.
        normalize: scale features to unit length.
        logits: add `image_logits` and `text_logits`.
        scale_bias: add `logit_scale` and `logit_bias`.
    """
    output = dict(towers)
    for name in ("image_features", "text_features"):
        if normalize and name in output:
            output[name] = functional.normalize(output[name], dim=-1)
    if logits:
        pair = model.logits_of(output["image_features"], output["text_features"])
        output["image_logits"], output["text_logits"] = pair
    if scale_bias:
        output["logit_scale"] = model.logit_scale.exp()
        if model.logit_bias is not None:
            output["logit_bias"] = model.logit_bias
    return output

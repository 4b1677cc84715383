"""One set of weights under the names and shapes another model wants: text tower at the root or below `text.`, scalars,
position embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from clip_trainer.weights.resize import resize_grid, resize_sequence

_TEXT_PARTS = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
_SCALARS = ("logit_scale", "logit_bias")
_PATCH_POSITIONS = "visual.positional_embedding"
_POOL_POSITIONS = "visual.attnpool.positional_embedding"
_TEXT_POSITIONS = ("positional_embedding", "text.positional_embedding")
_NO_WEIGHTS = ("text.transformer.embeddings.position_ids", "attn_mask", "text.attn_mask")
"""Constants that older versions of transformers, and traced models, keep among the weights."""


def to_custom_text(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move a text tower that stands at the root below `text.` (CLIP's layout into CustomTextCLIP's)."""
    return {f"text.{key}" if _top(key) in _TEXT_PARTS else key: value for key, value in state_dict.items()}


def to_plain_text(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move a text tower from below `text.` to the root (CustomTextCLIP's layout into CLIP's)."""
    return {
        key[len("text.") :] if key.startswith("text.") and _top(key[len("text.") :]) in _TEXT_PARTS else key: value
        for key, value in state_dict.items()
    }


def fit(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state_dict` in the layout of `model`, as far as the difference is one of form.

    Moves the text tower, reshapes the logit scale and bias between 0-d and 1-d, starts a missing bias at 0, leaves
    out constants that are no weights, and resizes position embeddings.

    Raises:
        CorruptError: position embeddings that are not square must be resized.
    """
    wanted = model.state_dict()
    state = dict(state_dict)
    if "text.token_embedding.weight" in wanted and "token_embedding.weight" in state:
        state = to_custom_text(state)
    elif "token_embedding.weight" in wanted and "text.token_embedding.weight" in state:
        state = to_plain_text(state)
    if "logit_bias" in wanted and "logit_bias" not in state:
        state["logit_bias"] = torch.zeros_like(wanted["logit_bias"], device="cpu")
    for name in _SCALARS:
        if name in state and name in wanted and state[name].numel() == wanted[name].numel():
            state[name] = state[name].reshape(wanted[name].shape)
    for name in _NO_WEIGHTS:
        if name not in wanted:
            state.pop(name, None)
    _resize(state, wanted, model)
    return state


def _resize(state: dict[str, Tensor], wanted: Mapping[str, Tensor], model: nn.Module) -> None:
    for name in _TEXT_POSITIONS:
        if name in state and name in wanted and state[name].shape[1:] == wanted[name].shape[1:]:
            state[name] = resize_sequence(state[name], len(wanted[name]))
    for name in (_PATCH_POSITIONS, _POOL_POSITIONS):
        if name in state and name in wanted and state[name].shape != wanted[name].shape:
            # OpenCLIP does not resize the positions of ModifiedResNet's pooling, so other image sizes fail there.
            state[name] = resize_grid(state[name], _grid(model, name, len(wanted[name]) - 1))


def _grid(model: nn.Module, name: str, positions: int) -> tuple[int, int]:
    """Rows and columns of the positions that `model` has."""
    visual = model.get_submodule("visual")
    if name == _PATCH_POSITIONS:
        rows, columns = _pair(visual.grid_size)
    else:
        height, width = _pair(visual.image_size)
        rows, columns = height // 32, width // 32
    assert rows * columns == positions
    return rows, columns


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    assert isinstance(value, (tuple, list))
    return int(value[0]), int(value[1])


def _top(key: str) -> str:
    return key.partition(".")[0]

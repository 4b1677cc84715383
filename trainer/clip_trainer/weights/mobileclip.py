"""Apple's MobileCLIP weights under the names of OpenCLIP's models (image towers of timm, which knows their layout)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from clipctl.contract.errors import SpecError

_FASTVIT = "image_encoder.model.patch_embed.0.rbr_conv.0.conv.weight"
_HYBRID = "image_encoder.model.patch_emb.0.block.conv.weight"
_TEXT = "text_encoder."
_RENAMED = (
    ("projection_layer", "text_projection"),
    ("embedding_layer", "token_embedding"),
    ("positional_embedding.pos_embed.pos_embed", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
    ("pre_norm_mha.0", "ln_1"),
    ("pre_norm_mha.1", "attn"),
    ("pre_norm_ffn.0", "ln_2"),
    ("pre_norm_ffn.1", "mlp.c_fc"),
    ("pre_norm_ffn.4", "mlp.c_proj"),
    ("qkv_proj.weight", "in_proj_weight"),
    ("qkv_proj.bias", "in_proj_bias"),
    ("transformer.", "transformer.resblocks."),
)


def is_mobileclip(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are weights as Apple publishes them (S1, S2 and B)."""
    return _FASTVIT in state_dict or _HYBRID in state_dict


def from_mobileclip(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights under the names of `model`, whose image tower is timm's.

    Raises:
        SpecError: timm is not installed.
    """
    state = {f"visual.trunk.{key}": value for key, value in _image(state_dict, model).items()}
    state |= {
        f"text.{_text_name(key[len(_TEXT) :])}": _text_value(key, value)
        for key, value in state_dict.items()
        if key.startswith(_TEXT)
    }
    state["logit_scale"] = state_dict["logit_scale"]
    return state


def _image(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    try:
        from timm.models import fastvit, vision_transformer_hybrid
    except ImportError:
        raise SpecError("MobileCLIP weights need the package timm.", hint="Install it: pip install timm.") from None
    translate = (fastvit if _FASTVIT in state_dict else vision_transformer_hybrid).checkpoint_filter_fn
    translated: dict[str, Tensor] = translate(dict(state_dict), model.get_submodule("visual.trunk"))
    return translated


def _text_name(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name


def _text_value(key: str, value: Tensor) -> Tensor:
    return value.squeeze() if ".pos_embed." in key else value

"""SigLIP weights of Google's big_vision (`.npz`) under the names of OpenCLIP's models.

big_vision keeps matrices as [in, out] and attention projections as [width, heads, head width]; blocks either one by
one (`encoderblock_3/`) or stacked along a first axis (`encoderblock/`). Target: a timm ViT with attention pooling, and
the text transformer below `text.`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipctl.contract.errors import CorruptError, MissingError

Arrays = Mapping[str, NDArray[np.float32]]
_ATTENTION = "MultiHeadDotProductAttention_0/"


def read_big_vision(path: str | Path) -> dict[str, Tensor]:
    """The weights in a `.npz` file of big_vision; pickled arrays are refused.

    Raises:
        MissingError: there is no such file.
        CorruptError: it is damaged, or not a SigLIP model.
    """
    try:
        with open(path, "rb") as file:  # np.load leaves a file it cannot read open
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            return from_big_vision(arrays)
    except FileNotFoundError:
        raise MissingError(f"There are no weights at {path}.", hint="Check the path.") from None
    except KeyError as error:
        raise CorruptError(f"{path} holds no SigLIP model: {error}.") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptError(f"{path} is not a readable .npz file: {error}.", hint="Fetch it again.") from None


def from_big_vision(arrays: Arrays) -> dict[str, Tensor]:
    """The arrays of a SigLIP model as a state dict.

    Raises:
        KeyError: one is missing.
    """
    root = "params/" if "params/b" in arrays else ""
    state = dict(_image(arrays, f"{root}img/", "visual.trunk."))
    state |= _text(arrays, f"{root}txt/", "text.")
    state["logit_bias"] = _plain(arrays[f"{root}b"]).reshape(-1)[0]
    state["logit_scale"] = _plain(arrays[f"{root}t"]).reshape(-1)[0]
    return state


def _image(arrays: Arrays, source: str, target: str) -> Iterator[tuple[str, Tensor]]:
    kernel = arrays[f"{source}embedding/kernel"]  # [height, width, in, out]
    yield f"{target}patch_embed.proj.weight", _plain(kernel.transpose(3, 2, 0, 1))
    yield f"{target}patch_embed.proj.bias", _plain(arrays[f"{source}embedding/bias"])
    yield f"{target}pos_embed", _plain(arrays[f"{source}pos_embedding"])
    if f"{source}cls" in arrays:
        yield f"{target}cls_token", _plain(arrays[f"{source}cls"])
    for number, block in enumerate(_blocks(arrays, f"{source}Transformer/")):
        name = f"{target}blocks.{number}."
        yield from _norm(block, "LayerNorm_0/", f"{name}norm1.")
        yield f"{name}attn.qkv.weight", torch.cat([_heads(block, _ATTENTION, part) for part in _QKV])
        yield f"{name}attn.qkv.bias", torch.cat([_head_biases(block, _ATTENTION, part) for part in _QKV])
        yield from _out(block, _ATTENTION, f"{name}attn.proj.")
        yield from _norm(block, "LayerNorm_1/", f"{name}norm2.")
        yield from _mlp(block, f"{name}mlp.fc1.", f"{name}mlp.fc2.")
    yield from _norm(arrays, f"{source}Transformer/encoder_norm/", f"{target}norm.")
    if f"{source}MAPHead_0/probe" in arrays:
        yield from _pool(_below(arrays, f"{source}MAPHead_0/"), f"{target}attn_pool.")


def _pool(head: Arrays, target: str) -> Iterator[tuple[str, Tensor]]:
    """Attention pooling with a learned query."""
    yield f"{target}latent", _plain(head["probe"])
    yield f"{target}q.weight", _heads(head, _ATTENTION, "query")
    yield f"{target}q.bias", _head_biases(head, _ATTENTION, "query")
    yield f"{target}kv.weight", torch.cat([_heads(head, _ATTENTION, part) for part in ("key", "value")])
    yield f"{target}kv.bias", torch.cat([_head_biases(head, _ATTENTION, part) for part in ("key", "value")])
    yield from _out(head, _ATTENTION, f"{target}proj.")
    yield from _norm(head, "LayerNorm_0/", f"{target}norm.")
    yield from _mlp(head, f"{target}mlp.fc1.", f"{target}mlp.fc2.")


def _text(arrays: Arrays, source: str, target: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{target}token_embedding.weight", _plain(arrays[f"{source}Embed_0/embedding"])
    yield f"{target}positional_embedding", _plain(arrays[f"{source}pos_embedding"].squeeze(0))
    for number, block in enumerate(_blocks(arrays, f"{source}Encoder_0/")):
        name = f"{target}transformer.resblocks.{number}."
        yield from _norm(block, "LayerNorm_0/", f"{name}ln_1.")
        yield f"{name}attn.in_proj_weight", torch.cat([_heads(block, _ATTENTION, part) for part in _QKV])
        yield f"{name}attn.in_proj_bias", torch.cat([_head_biases(block, _ATTENTION, part) for part in _QKV])
        yield from _out(block, _ATTENTION, f"{name}attn.out_proj.")
        yield from _norm(block, "LayerNorm_1/", f"{name}ln_2.")
        yield from _mlp(block, f"{name}mlp.c_fc.", f"{name}mlp.c_proj.")
    yield from _norm(arrays, f"{source}Encoder_0/encoder_norm/", f"{target}ln_final.")
    if f"{source}head/kernel" in arrays:
        yield from _linear(arrays, f"{source}head/", f"{target}text_projection.")


_QKV = ("query", "key", "value")


def _below(arrays: Arrays, prefix: str) -> dict[str, NDArray[np.float32]]:
    return {key[len(prefix) :]: arrays[key] for key in arrays if key.startswith(prefix)}


def _blocks(arrays: Arrays, prefix: str) -> Iterator[Arrays]:
    """The transformer blocks below `prefix`, in order, however they are stored."""
    stacked = _below(arrays, f"{prefix}encoderblock/")
    if stacked:
        for number in range(len(stacked["LayerNorm_0/scale"])):
            yield {key: value[number] for key, value in stacked.items()}
        return
    number = 0
    while block := _below(arrays, f"{prefix}encoderblock_{number}/"):
        yield block
        number += 1


def _norm(arrays: Arrays, source: str, target: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{target}weight", _plain(arrays[f"{source}scale"])
    yield f"{target}bias", _plain(arrays[f"{source}bias"])


def _linear(arrays: Arrays, source: str, target: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{target}weight", _plain(arrays[f"{source}kernel"].T)
    yield f"{target}bias", _plain(arrays[f"{source}bias"])


def _mlp(arrays: Arrays, first: str, second: str) -> Iterator[tuple[str, Tensor]]:
    yield from _linear(arrays, "MlpBlock_0/Dense_0/", first)
    yield from _linear(arrays, "MlpBlock_0/Dense_1/", second)


def _heads(arrays: Arrays, source: str, part: str) -> Tensor:
    """[width, heads, head width] -> [heads * head width, width]."""
    kernel = arrays[f"{source}{part}/kernel"]
    return _plain(kernel.reshape(len(kernel), -1).T)


def _head_biases(arrays: Arrays, source: str, part: str) -> Tensor:
    return _plain(arrays[f"{source}{part}/bias"].reshape(-1))


def _out(arrays: Arrays, source: str, target: str) -> Iterator[tuple[str, Tensor]]:
    """[heads, head width, width] -> [width, heads * head width]."""
    kernel = arrays[f"{source}out/kernel"]
    yield f"{target}weight", _plain(kernel.reshape(-1, kernel.shape[-1]).T)
    yield f"{target}bias", _plain(arrays[f"{source}out/bias"])


def _plain(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))

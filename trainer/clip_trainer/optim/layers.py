"""Layer-wise learning rates: smaller ones towards the input of each tower (arXiv 2106.08254, section 4.2).

The depth of a parameter follows from its name. Embeddings of a tower are layer 0, its blocks 1 ... n, and what comes
after the last block is n + 1 with the full learning rate; each layer below has `decay` times the rate of the one above.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_IMAGE = "visual."
_JOINT = ("logit_scale", "logit_bias")
_BLOCK = re.compile(r"(?:(?:stages|layers)\.\d+\.blocks|\b(?:resblocks|blocks?|layers?|layer\d+|stages?))\.\d+(?=\.)")
_HEAD = re.compile(
    r"^(?:visual\.|text\.)?(?:transformer\.|trunk\.)?(?:ln_post|ln_final|proj|text_projection|attn_pool\w*|attnpool|head"
    r"|pooler|norm|fc_norm|encoder\.final_layer_norm|text_decoder)(?:\.|$)"
)


def layer_scales(names: Iterable[str], image: float, text: float) -> dict[str, float]:
    """Factor on the learning rate of each parameter.

    Args:
        names: all parameters of the model in its own order, frozen ones included: they count as layers too.
        image: factor from one image layer to the one before.
        text: the same for the text tower.
    """
    every = list(names)
    image_tower = [name for name in every if name.startswith(_IMAGE)]
    text_tower = [name for name in every if not name.startswith(_IMAGE) and name not in _JOINT]
    return dict.fromkeys(every, 1.0) | _tower(image_tower, image) | _tower(text_tower, text)


def _tower(names: Sequence[str], decay: float) -> dict[str, float]:
    blocks = list(dict.fromkeys(block for name in names if (block := _block(name)) is not None))
    depth = {block: index + 1 for index, block in enumerate(blocks)}
    head = len(blocks) + 1
    return {name: decay ** (head - _depth(name, depth, head)) for name in names}


def _depth(name: str, depth_of_block: dict[str, int], head: int) -> int:
    block = _block(name)
    if block is not None:
        return depth_of_block[block]
    return head if _HEAD.search(name) else 0


def _block(name: str) -> str | None:
    """Everything up to the number of the residual block, for a parameter inside one of the tower's main stack."""
    found = _BLOCK.search(name)
    if found is None or _HEAD.search(name[: found.start()]):
        return None
    return name[: found.end()]

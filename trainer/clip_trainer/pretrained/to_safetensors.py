"""`python -m clip_trainer.pretrained.to_safetensors IN OUT`: weights of any readable format as safetensors.

The command line runs it as a process of its own, because it never imports torch itself.
"""

from __future__ import annotations

import sys
from typing import Any

from clip_trainer.jsonanswer import answer


def convert(arguments: list[str]) -> dict[str, Any]:
    """Write the file; what is known of its weights. Raises `ClipError` as `read_weights` does."""
    from safetensors.torch import save_file

    from clip_trainer.weights.read import read_weights

    source, target = arguments
    weights = read_weights(source)
    metadata = {"format": "pt"}
    if weights.quick_gelu is not None:
        metadata["quick_gelu"] = str(weights.quick_gelu).lower()
    # Tensors may be views of one storage, which safetensors does not store twice.
    tensors = {key: tensor.detach().clone().contiguous() for key, tensor in weights.state_dict.items()}
    save_file(tensors, target, metadata=metadata)
    return {"tensors": len(tensors), "format": weights.format.value, "quick_gelu": weights.quick_gelu}


if __name__ == "__main__":
    sys.exit(answer(convert, sys.argv[1:]))

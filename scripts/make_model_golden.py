"""Write tests/golden/model_state_dicts.json: what OpenCLIP 3.3.0 stores for each of its models.

Needs `open_clip_torch==3.3.0`, timm and transformers. Shapes only: no weights are made or fetched. Run it again only
for another version of the oracle.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "model_state_dicts.json"


def digest(lines: list[str]) -> str:
    """A short fingerprint of a list of lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def fingerprint(model: Any) -> dict[str, object]:
    """What is compared of a model: keys, shapes and types of its state, and the order of its parameters."""
    state = model.state_dict()
    lines = [f"{key} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}" for key, value in state.items()]
    parameters = dict(model.named_parameters())
    return {
        "tensors": len(state),
        "parameters": sum(parameter.numel() for parameter in parameters.values()),
        "state": digest(sorted(lines)),
        "order": digest(list(parameters)),
    }


def oracle_model(name: str) -> Any:
    """OpenCLIP's model on the meta device; shapes of Hugging Face models come from our data, not from the hub."""
    import torch
    from open_clip import factory, hf_model
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    from clip_trainer.model.hf_architecture import hf_config
    from clip_trainer.model.skip_fills import SkipFills

    hf_model.AutoConfig.from_pretrained = hf_config
    config = factory.get_model_config(name)
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
    kind = (CoCa if "multimodal_cfg" in config else CustomTextCLIP) if custom else CLIP
    with torch.device("meta"), SkipFills():
        return kind(**config)


def main() -> int:
    """Build every model of the oracle and write the file."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import open_clip

    if open_clip.__version__ != "3.3.0":
        sys.exit(f"open_clip_torch is {open_clip.__version__}, not 3.3.0")
    models = {name: fingerprint(oracle_model(name)) for name in sorted(open_clip.list_models())}
    entries = ",\n".join(f'    "{name}": {json.dumps(found)}' for name, found in models.items())
    text = f'{{\n  "source": "open_clip_torch 3.3.0",\n  "models": {{\n{entries}\n  }}\n}}\n'
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write tests/golden/coca_generate.json: captions by OpenCLIP's own `generate`.

It needs a transformers older than 5, which the test environment does not have. Put one beside it:

    pip install --no-deps --target OLD transformers==4.56.2 huggingface_hub==0.35.3 tokenizers==0.22.1
    HF_HUB_OFFLINE=1 PYTHONPATH=OLD:testkit python scripts/make_generate_golden.py
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers

from clip_testkit import tinymodels
from clip_trainer.model import ClipConfig, create_model

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "coca_generate.json"
CASES: list[dict[str, Any]] = [
    {},
    {"num_beams": 4, "num_beam_groups": 1},
    {"num_beams": 4, "num_beam_groups": 2, "min_seq_len": 2},
    {"fixed_output_length": True, "min_seq_len": 1},
    {"repetition_penalty": 1.5},
    {"generation_type": "top_k"},
    {"generation_type": "top_k", "repetition_penalty": 2.0, "fixed_output_length": True},
    {"generation_type": "top_p", "top_p": 1e-6},
    {"num_beams": 2, "num_beam_groups": 2, "repetition_penalty": 1.2},
    {"generation_type": "top_k", "max_seq_len": 3},
]
"""Deterministic choices only."""


def captions(sharpness: float, common_end: bool) -> list[dict[str, Any]]:
    """All cases with one set of weights; `common_end` ends texts at a token that is often chosen."""
    ours = create_model(ClipConfig.from_dict(tinymodels.COCA, "tiny"))
    tinymodels.fill(ours, sharpness)
    tinymodels.look_hard(ours)
    oracle: Any = tinymodels.oracle(tinymodels.COCA).eval()
    oracle.load_state_dict(ours.state_dict())
    images = tinymodels.images(16, rows=6, dtype=torch.float32)
    found = []
    for case in CASES:
        arguments = {"seq_len": 9, "min_seq_len": 3, "sot_token_id": 38, "eos_token_id": 39} | case
        if common_end:
            inner = oracle.generate(images, **arguments)[:, 3:7].flatten().tolist()
            arguments["eos_token_id"] = Counter(inner).most_common(1)[0][0]
        given = case | {"eos_token_id": arguments["eos_token_id"]}
        tokens = oracle.generate(images, **arguments).tolist()
        found.append({"sharpness": sharpness, "arguments": given, "tokens": tokens})
    return found


def main() -> None:
    """Write the file."""
    cases = [case for index in range(6) for case in captions(2.0 + index / 2, common_end=bool(index % 2))]
    made_by = f"open_clip_torch 3.3.0 with transformers {transformers.__version__}"
    TARGET.write_text(json.dumps({"made_by": made_by, "cases": cases}), encoding="utf-8")


if __name__ == "__main__":
    main()

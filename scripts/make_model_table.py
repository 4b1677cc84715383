"""Write docs/models.md: every model of OpenCLIP 3.3.0, and what was compared with it.

Needs `open_clip_torch==3.3.0`, timm and transformers, and half a minute.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "models.md"
TOLERANCE = 1e-10

HEAD = """# Models

<!-- Written by scripts/make_model_table.py. -->

Every model name of OpenCLIP 3.3.0 exists here, with the same configuration (sizes and options come from
[OpenCLIP](https://github.com/mlfoundations/open_clip), MIT licence). For each of them was compared:

- **keys**: names, shapes and types of the whole state dict at full size, and the order of the parameters. Both are
  built without memory; the digests of OpenCLIP's are in `tests/golden/model_state_dicts.json`.
- **forward**: outputs of both projects with equal weights, on a small copy of the model (the same options and kinds of
  layers, fewer and narrower ones), in float64: the largest difference is below 1e-10.
- **loads both ways**: weights of that small copy load strictly in OpenCLIP, and OpenCLIP's load strictly here.

`make parity` repeats all of it. Towers named `timm` and `hf` need the packages timm and transformers. A model of your
own is a JSON file in the same layout: `model.config` in `run.yaml`, or `clip_trainer.add_model_config(path)`.

| Model | Class | Image tower | Text tower | Parameters (M) | Tensors | Keys | Forward | Loads both ways |
|---|---|---|---|---:|---:|---|---|---|
"""


def row(name: str, golden: dict[str, object], folder: Path) -> str:
    """Compare one model and describe it in a line of the table."""
    from make_model_golden import fingerprint

    from clip_testkit.model_parity import shrunken_difference
    from clip_trainer.model import create_model, get_config

    config = get_config(name)
    same = fingerprint(create_model(name, device="meta")) == golden
    image = {"vit": "ViT", "resnet": "ResNet", "timm": f"timm `{config.vision.timm_model_name}`"}[config.vision.kind]
    text = {"native": "native", "hf": f"hf `{config.text.hf_model_name}`"}[config.text.kind]
    kind = {"clip": "CLIP", "custom_text": "CustomTextCLIP", "coca": "CoCa"}[config.kind]
    try:
        loads, equal = True, shrunken_difference(name, folder) < TOLERANCE
    except RuntimeError as error:  # torch's for keys that do not fit
        print(f"{name}: {error}", file=sys.stderr)
        loads = equal = False
    millions = f"{int(str(golden['parameters'])) / 1e6:.2f}"
    answers = ["yes" if answer else "no" for answer in (same, equal, loads)]
    return f"| `{name}` | {' | '.join([kind, image, text, millions, str(golden['tensors']), *answers])} |"


def main() -> int:
    """Compare every model and write the table."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    models = json.loads((ROOT / "tests" / "golden" / "model_state_dicts.json").read_text(encoding="utf-8"))["models"]
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(name, golden, Path(folder)) for name, golden in models.items()]
    TARGET.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    failed = [line for line in rows if "no |" in line]
    print(f"{len(rows)} models, {len(failed)} differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What a finished run leaves behind: a folder that OpenCLIP, and our own library, load as `local-dir:`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from clip_trainer.checkpoint.tensors import Tensors
from clip_trainer.model.config import TextConfig
from clip_trainer.model.interchange import CONFIG_FILE, WEIGHTS_FILE, open_clip_config, to_bytes
from clip_trainer.parallel.pieces import whole
from clip_trainer.text import HFTokenizer, tokenizer_folder, tokenizer_for
from clipctl.contract import layout

if TYPE_CHECKING:
    from clip_trainer.train.run import Run


def export_weights(run: Run) -> dict[str, Tensors]:
    """What is exported, by folder: the averaged weights if the run averages them, and then those that were trained
    below `raw/` as well. Collective if the model is sharded.
    """
    average, own = run.trainable.average, whole(run.model.state_dict())
    return {"": own} if average is None else {"": whole(average.state_dict()), "raw/": own}


def write_export(run: Run, folders: Mapping[str, Tensors]) -> None:
    """Store weights, configuration, preprocessing and tokenizer.

    Args:
        run: the run.
        folders: see `export_weights`.
    """
    config = run.model.config
    files = {CONFIG_FILE: json.dumps(open_clip_config(config, run.transforms.preprocess), indent=2).encode()}
    files |= tokenizer_files(config.text, tokenizer_folder(run.spec.model.name))
    for folder, weights in folders.items():
        files[WEIGHTS_FILE] = to_bytes(weights, quick_gelu=config.quick_gelu)
        for name, data in files.items():
            run.store.write(f"{layout.EXPORT}{folder}{name}", data)


def tokenizer_files(config: TextConfig, source: str | None = None) -> dict[str, bytes]:
    """The files of the tokenizer of a text tower, by name; none for CLIP's own, which every installation has.

    OpenCLIP takes a Hugging Face tokenizer from the model's folder and from nowhere else.

    Args:
        config: the text section of a model's configuration.
        source: where the files are, if not where the configuration says.
    """
    if not config.hf_tokenizer_name:
        return {}
    tokenizer = tokenizer_for(config, source=source)
    assert isinstance(tokenizer, HFTokenizer)
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}

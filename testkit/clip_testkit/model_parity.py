"""Comparing a model of ours with OpenCLIP's of the same configuration: inputs, weights both ways, outputs.

The oracle (`open_clip_torch==3.3.0`) is imported only when asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_testkit.shrunken_models import shrunken, small_timm_models
from clip_trainer.model import ClipConfig, ClipModel, SpeedUps, create_model, get_config


def oracle_for(config: ClipConfig, **options: Any) -> Any:
    """OpenCLIP's model of a configuration, on the default device, with its own random weights.

    Args:
        config: of the model.
        options: further arguments of OpenCLIP's class.
    """
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    fields = config.to_dict()
    fields.pop("custom_text", None)
    text = fields["text_cfg"]
    assert isinstance(text, dict)
    if config.text.kind == "hf":
        text["hf_model_pretrained"] = False
    return {"clip": CLIP, "custom_text": CustomTextCLIP, "coca": CoCa}[config.kind](**fields, **options)


def filled(theirs: Any) -> Any:
    """A model of OpenCLIP without raw memory in it: 3.3.0 does not initialise the output layer of CoCa's decoder."""
    decoder = getattr(theirs, "text_decoder", None)
    if decoder is not None:
        torch.nn.init.normal_(decoder.text_projection, std=0.02)
    return theirs


def paired_models(config: ClipConfig, dtype: torch.dtype, speed_ups: SpeedUps | None = None) -> tuple[ClipModel, Any]:
    """Ours and the oracle's with the same weights, which went to the oracle and back again, both strictly.

    Args:
        config: of both.
        dtype: of both.
        speed_ups: of ours.
    """
    theirs = oracle_for(config).to(dtype)
    theirs.load_state_dict(create_model(config, seed=1).to(dtype).state_dict(), strict=True)
    ours = create_model(config, seed=2, speed_ups=speed_ups).to(dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def sample_batch(config: ClipConfig, dtype: torch.dtype, rows: int = 4) -> tuple[Tensor, Tensor]:
    """Random images, and token ids that end somewhere: one `eos_id`, the largest id, then padding.

    Args:
        config: for sizes and ids.
        dtype: of the images.
        rows: how many.
    """
    generator = torch.Generator().manual_seed(0)
    text_config = config.text
    image = torch.randn(rows, 3, *config.vision.image_hw, generator=generator, dtype=dtype)
    first = max(text_config.eos_id, text_config.pad_id) + 1
    last, context = text_config.vocab_size - 1, text_config.context_length
    text = torch.randint(first, last, (rows, context), generator=generator)
    for row, length in enumerate(torch.randint(2, context // 2 + 1, (rows,), generator=generator).tolist()):
        text[row, length - 2], text[row, length - 1] = text_config.eos_id, last
        text[row, length:] = text_config.pad_id
    return image, text


def largest_difference(actual: Any, expected: Any) -> float:
    """The largest absolute difference between two tensors, or nested tuples, lists and dicts of them.

    Raises:
        AssertionError: they differ in structure, shape or type.
    """
    if isinstance(expected, Tensor):
        assert isinstance(actual, Tensor)
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), f"{actual.shape}, {expected.shape}"
        return float((actual - expected).detach().abs().max()) if expected.numel() else 0.0
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), f"{sorted(actual)} instead of {sorted(expected)}"
        return max((largest_difference(actual[key], expected[key]) for key in expected), default=0.0)
    if expected is None:
        assert actual is None
        return 0.0
    assert len(actual) == len(expected)
    return max((largest_difference(a, b) for a, b in zip(actual, expected, strict=True)), default=0.0)


def shrunken_difference(name: str, folder: Path) -> float:
    """The largest difference between outputs of a small copy of a model of ours and the oracle's, in float64.

    Weights go to the oracle and back on the way. The configuration is that of `clip_testkit.shrunken_models`.

    Args:
        name: of the model.
        folder: for configurations of small Hugging Face models.
    """
    with small_timm_models(), torch.no_grad():
        config = shrunken(get_config(name), folder)
        ours, theirs = paired_models(config, torch.float64)
        image, text = sample_batch(config, torch.float64, rows=2)
        expected = theirs.eval()(image, text)
        actual = ours.eval()(image, text)
    return largest_difference(actual if isinstance(expected, dict) else tuple(actual), expected)

"""A small copy of each of OpenCLIP's models: weights go to the oracle and back, outputs are equal."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from clip_testkit.model_parity import largest_difference, sample_batch, shrunken_difference
from clip_testkit.shrunken_models import shrunken
from clip_trainer.model import create_model, get_config

ROOT = Path(__file__).parents[2]
NAMES = list(json.loads((ROOT / "tests" / "golden" / "model_state_dicts.json").read_text())["models"])
ONE_A_KIND = ("ViT-L-14-CLIPA", "ViT-M-32-alt", "RN50-quickgelu", "coca_base", "coca_ViT-L-14")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parity
@pytest.mark.parametrize("name", ONE_A_KIND)
def test_native_kinds(open_clip, tmp_path, name):
    assert shrunken_difference(name, tmp_path) < 1e-10


@pytest.mark.long
@pytest.mark.parity
@pytest.mark.parametrize("name", NAMES)
def test_every_model(open_clip, tmp_path, name):
    assert shrunken_difference(name, tmp_path) < 1e-10


@pytest.mark.parametrize("name", ["ViT-L-14-336", "ViT-e-14", "RN50x64", "coca_ViT-B-32"])
def test_shrinking_keeps_the_options(tmp_path, name):
    config, small = get_config(name), shrunken(get_config(name), tmp_path)
    assert (small.kind, small.vision.kind, small.text.kind) == (config.kind, config.vision.kind, config.text.kind)
    assert small.quick_gelu == config.quick_gelu
    for part, kept in (
        ("vision", ("mlp_ratio", "pool_type", "attentional_pool", "output_tokens", "ls_init_value")),
        ("text", ("pool_type", "embed_cls", "no_causal_mask", "output_tokens", "proj_bias", "eos_id")),
    ):
        for field in kept:
            assert getattr(getattr(small, part), field) == getattr(getattr(config, part), field)
    assert sum(parameter.numel() for parameter in create_model(small).parameters()) < 400_000


def test_sampled_texts_end_once_and_are_padded():
    config = get_config("ViT-B-32")
    _, text = sample_batch(config, torch.float32, rows=6)
    for row in text:
        end = int(row.argmax())
        assert row[end] == config.text.vocab_size - 1
        assert not row[end + 1 :].any()
        assert row[end - 1] == config.text.eos_id
        assert (row[: end - 1] > config.text.eos_id).all()


def test_differences_are_found_in_nested_results():
    one, other = torch.zeros(3), torch.tensor([0.0, 0.25, 0.0])
    assert largest_difference({"a": [one, (one, None)]}, {"a": [one, (other, None)]}) == 0.25
    assert largest_difference(torch.zeros(0), torch.zeros(0)) == 0
    assert math.isnan(largest_difference(one, torch.full((3,), math.nan)))
    for wrong in (torch.zeros(4), one.double(), None):
        with pytest.raises((AssertionError, TypeError, AttributeError)):
            largest_difference(wrong, one)
    with pytest.raises(AssertionError):
        largest_difference({"a": one}, {"b": one})


def test_the_table_in_the_documentation_is_complete():
    """`scripts/make_model_table.py` writes it from the comparisons above."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \|(.*)$", text, flags=re.MULTILINE))
    assert list(rows) == NAMES
    assert all(row.count("yes") == 3 for row in rows.values()), [name for name, row in rows.items() if "no" in row]

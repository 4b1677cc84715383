"""The registry against OpenCLIP's, pair by pair; and its hub cache against `huggingface_hub`."""

import pytest

from clip_trainer.pretrained import registry

pytestmark = pytest.mark.parity

CORRECTED = ("ViT-B-16-plus-240", "laion400m_e32")


def test_the_same_pairs_in_the_same_order(open_clip):
    assert registry.list_pretrained() == open_clip.list_pretrained()
    assert registry.list_pretrained(as_str=True) == open_clip.list_pretrained(as_str=True)


def test_the_same_sources_and_preprocessing_but_for_the_corrected_pair(open_clip):
    from open_clip.pretrained import get_pretrained_cfg

    pairs = open_clip.list_pretrained()
    different = [pair for pair in pairs if registry.get_pretrained_cfg(*pair) != get_pretrained_cfg(*pair)]
    assert different == [CORRECTED]
    ours, theirs = registry.get_pretrained_cfg(*CORRECTED), get_pretrained_cfg(*CORRECTED)
    assert {key for key in theirs if ours[key] != theirs[key]} == {"hf_hub"}
    assert theirs["hf_hub"].endswith("laion400m_e31/")


def test_the_same_lookups(open_clip):
    from open_clip import pretrained as oracle

    pairs = open_clip.list_pretrained()
    for tag in [*sorted({tag for _, tag in pairs}), "LAION400M-E31", "none"]:
        assert registry.list_pretrained_models_by_tag(tag) == oracle.list_pretrained_models_by_tag(tag)
    for model in [*sorted({model for model, _ in pairs}), "none"]:
        assert registry.list_pretrained_tags_by_model(model) == oracle.list_pretrained_tags_by_model(model)
    for model, tag in [*pairs, ("RN50", "OpenAI"), ("RN50", "none"), ("none", "openai")]:
        assert registry.is_pretrained_cfg(model, tag) == oracle.is_pretrained_cfg(model, tag)
        assert registry.get_pretrained_url(model, tag) == oracle.get_pretrained_url(model, tag)

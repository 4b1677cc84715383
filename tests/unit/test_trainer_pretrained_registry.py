"""The registry: all pairs, tag spelling, published digests, licences, the corrected entry."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clip_trainer.pretrained import registry
from clipctl.contract.errors import ExitCode, MissingError

ENTRIES = [registry.entry(*pair) for pair in registry.list_pretrained()]


def test_there_are_196_pairs_over_115_models_each_on_the_hub():
    pairs = registry.list_pretrained()
    assert len(pairs) == len(set(pairs)) == 196
    assert len({model for model, _ in pairs}) == 115
    assert all(entry.hf_hub for entry in ENTRIES)
    assert sum(bool(entry.url) for entry in ENTRIES) == 52


def test_pairs_as_text():
    assert registry.list_pretrained(as_str=True)[0] == "RN50:openai"
    assert registry.list_pretrained(as_str=True) == [":".join(pair) for pair in registry.list_pretrained()]


@pytest.mark.parametrize("tag", ["laion2b_s34b_b79k", "LAION2B-s34B-b79K", "laion2b-s34b_b79k"])
def test_tags_are_found_in_any_spelling(tag):
    assert registry.is_pretrained_cfg("ViT-B-32", tag)
    assert registry.get_pretrained_cfg("ViT-B-32", tag)["hf_hub"] == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K/"
    assert "ViT-B-32" in registry.list_pretrained_models_by_tag(tag)


def test_what_is_unknown_gives_empty_answers_as_in_openclip():
    assert registry.get_pretrained_cfg("ViT-B-32", "nothing") == {}
    assert registry.get_pretrained_cfg("nothing", "openai") == {}
    assert registry.get_pretrained_url("nothing", "openai") == ""
    assert registry.list_pretrained_tags_by_model("nothing") == []
    assert registry.list_pretrained_models_by_tag("nothing") == []
    assert not registry.is_pretrained_cfg("nothing", "openai")


def test_an_unknown_tag_is_answered_with_the_known_ones():
    with pytest.raises(MissingError) as caught:
        registry.entry("ViT-H-14", "laion2b_s34b_b79k")
    assert caught.value.code == ExitCode.MISSING
    assert "laion2b_s32b_b79k" in caught.value.hint
    assert "ViT-B-32" in caught.value.hint
    with pytest.raises(MissingError, match="No published weights"):
        registry.entry("ViT-S-32", "openai")


def test_a_model_may_be_written_with_a_slash():
    assert registry.entry("ViT-B/32", "openai").model == "ViT-B-32"


def test_every_digest_is_the_one_in_the_address():
    for entry in ENTRIES:
        if "openaipublic" in entry.url:
            assert entry.sha256 == entry.url.split("/")[-2]
            assert len(entry.sha256) == 64
        elif "mlfoundations" in entry.url:
            assert len(entry.sha256) == 8
            assert Path(entry.url).stem.endswith(entry.sha256)
        else:
            assert entry.sha256 is None


def test_the_plus_240_weights_of_epoch_32_come_from_the_repository_of_epoch_32():
    first, second = (registry.entry("ViT-B-16-plus-240", f"laion400m_e{epoch}") for epoch in (31, 32))
    assert first.hf_hub == "timm/vit_base_patch16_plus_clip_240.laion400m_e31/"
    assert second.hf_hub == "timm/vit_base_patch16_plus_clip_240.laion400m_e32/"


def test_quickgelu_names_are_derived_from_the_weights_that_need_it():
    assert registry.list_pretrained_tags_by_model("ViT-H-14-quickgelu") == ["metaclip_fullcc", "dfn5b"]
    assert registry.get_pretrained_cfg("ViT-H-14-quickgelu", "dfn5b") == registry.get_pretrained_cfg(
        "ViT-H-14", "dfn5b"
    )
    assert registry.list_pretrained_tags_by_model("ViT-g-14-quickgelu") == []
    assert all(entry.quick_gelu for entry in ENTRIES if entry.model.endswith("-quickgelu"))


@pytest.mark.parametrize(
    ("model", "tag", "licence"),
    [
        ("RN50x64", "openai", "MIT"),
        ("ViT-B-32", "laion2b_e16", "MIT"),
        ("ViT-L-14", "laion2b_s32b_b82k", "MIT"),
        ("ViT-B-16", "metaclip_400m", "CC-BY-NC-4.0"),
        ("ViT-B-16-SigLIP", "webli", "Apache-2.0"),
        ("ViT-B-16-SigLIP2", "webli", None),
        ("ViTamin-L", "datacomp1b", None),
    ],
)
def test_licences_are_named_where_they_are_known_and_only_there(model, tag, licence):
    entry = registry.entry(model, tag)
    assert entry.licence == licence
    assert (entry.licence_basis is None) == (licence is None)


def test_preprocessing_of_the_families():
    assert registry.entry("ViT-B-16-SigLIP", "webli").resize_mode == "squash"
    assert registry.entry("ViT-H-14-CLIPA", "datacomp1b").interpolation == "bilinear"
    assert registry.entry("MobileCLIP-S1", "datacompdr").std == (1.0, 1.0, 1.0)
    assert registry.entry("ViT-L-14", "laion2b_s32b_b82k").mean == (0.5, 0.5, 0.5)


def test_answers_are_copies():
    registry.get_pretrained_cfg("RN50", "openai")["url"] = "changed"
    assert registry.get_pretrained_cfg("RN50", "openai")["url"].endswith("/RN50.pt")


def test_a_repository_may_name_its_file():
    assert registry.entry("ViTamin-S", "datacomp1b").repository == ("jienengchen/ViTamin-S", "pytorch_model.bin")
    assert registry.entry("RN50", "openai").repository == ("timm/resnet50_clip.openai", "")


def test_reading_the_registry_imports_neither_torch_nor_a_network_library():
    code = (
        "import json, sys\nfrom clip_trainer.pretrained import registry\nregistry.list_pretrained()\n"
        "print(json.dumps([m for m in ('torch', 'numpy', 'urllib3', 'fsspec', 'ssl', 'pydantic') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []

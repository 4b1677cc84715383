"""The registry against OpenCLIP's, the hub's cache against `huggingface_hub`'s, and bundles loaded by both."""

import os
import subprocess
import sys

import pytest

from clip_testkit.fetching import fetch_settings
from clip_testkit.weightserver import serving
from clip_trainer.pretrained import registry
from clip_trainer.pretrained.fetching import Fetcher
from clip_trainer.pretrained.hub import Hub
from clipctl.bundlesources import from_weights
from clipctl.modelbundle import write_bundle

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


HUB_CLIENT = """
import sys
from huggingface_hub import hf_hub_download
endpoint, cache, *files = sys.argv[1:]
for name in files:
    print(hf_hub_download("org/model", name, cache_dir=cache, endpoint=endpoint))
"""
FILES = {"open_clip_model.safetensors": b"weights" * 1000, "open_clip_config.json": b"{}"}


def run_hub_client(endpoint, cache, **environ):
    environ = {**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environ}
    command = [sys.executable, "-c", HUB_CLIENT, endpoint, str(cache), *FILES]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(name="server")
def _server():
    weights, config = FILES
    with serving() as server, serving() as storage:
        server.add_hub_file("org/model", weights, FILES[weights], storage=storage)
        server.add_hub_file("org/model", config, FILES[config], large=False)
        yield server


def test_huggingface_hub_finds_what_we_fetched(server, tmp_path):
    hub = Hub(fetch_settings(tmp_path, server))
    ours = [str(hub.fetch("org/model", name)) for name in FILES]
    server.requests.clear()
    assert run_hub_client(server.url, tmp_path / "hub", HF_HUB_OFFLINE="1") == ours
    assert server.requests == []


def test_we_find_what_huggingface_hub_fetched(server, tmp_path):
    theirs = run_hub_client(server.url, tmp_path / "hub", HF_HUB_OFFLINE="0")
    server.requests.clear()
    hub = Hub(fetch_settings(tmp_path, server))
    assert [str(hub.fetch("org/model", name)) for name in FILES] == theirs
    assert server.requests == []


@pytest.fixture(scope="module", name="bundle")
def _bundle(open_clip, tmp_path_factory):
    """A bundle of a small model whose weights OpenCLIP made, as `clipctl models bundle MODEL FILE OUT` writes it."""
    import torch
    from safetensors.torch import save_file

    from clip_trainer.model.config import raw_config

    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(1)
    theirs = open_clip.model.CLIP(**raw_config("ViT-tiny-8-32")).eval()
    save_file(theirs.state_dict(), folder / "weights.safetensors")
    fetcher = Fetcher(fetch_settings(folder, offline=True))
    parts = from_weights("ViT-tiny-8-32", str(folder / "weights.safetensors"), fetcher)
    write_bundle(parts, str(folder / "out"))
    return theirs, f"local-dir:{folder / 'out'}"


def features(model):
    import torch

    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    texts = torch.tensor([[49406, 320, 1125, 49407, *[0] * 20], [49406, 539, 49407, *[0] * 21]])
    with torch.inference_mode():
        return model.encode_image(images), model.encode_text(texts)


def test_openclip_loads_a_bundle(open_clip, bundle):
    import torch

    theirs, location = bundle
    model = open_clip.create_model(location, load_weights=True).eval()
    for ours, expected in zip(features(model), features(theirs), strict=True):
        assert torch.equal(ours, expected)
    ids = open_clip.get_tokenizer(location)(["a photo of a cat"])
    assert ids[0, :6].tolist() == [49406, 320, 1125, 539, 320, 2368]


def test_we_load_a_bundle(bundle):
    import torch

    import clip_trainer

    theirs, location = bundle
    model, _, preprocess = clip_trainer.create_model_and_transforms(location)
    for ours, expected in zip(features(model.eval()), features(theirs), strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)
    assert preprocess is not None

"""Models equal OpenCLIP's: state dicts, outputs, gradients, precision, files."""

import json
from pathlib import Path

import pytest
import torch

from clip_trainer.model import ClipConfig, SpeedUps, create_model, get_config
from clip_trainer.model.interchange import CONFIG_FILE, WEIGHTS_FILE, open_clip_config, save_weights
from clip_trainer.weights.load import load_file, load_state

GOLDEN = json.loads((Path(__file__).parent / "vit_b_32_state_dict.json").read_text())["tensors"]
SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 24, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8, "mlp_ratio": 3.0},
    "text_cfg": {"context_length": 12, "vocab_size": 200, "width": 48, "heads": 4, "layers": 2},
}


def table(state):
    return {key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for key, tensor in state.items()}


def batch(config, dtype, rows=5):
    generator = torch.Generator().manual_seed(0)
    size, context = config.vision.image_size, config.text.context_length
    image = torch.randn(rows, 3, size, size, generator=generator, dtype=dtype)
    text = torch.randint(1, config.text.vocab_size - 1, (rows, context), generator=generator)
    for row, end in enumerate(torch.randint(1, context // 2, (rows,), generator=generator).tolist()):
        text[row, end] = config.text.vocab_size - 1
        text[row, end + 1 :] = 0
    return image, text


def test_vit_b_32_has_the_committed_state_dict():
    assert table(create_model("ViT-B-32", device="meta").state_dict()) == GOLDEN


@pytest.mark.parity
@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("speed_ups", [SpeedUps(), SpeedUps(pooled_last_block=False)])
def test_outputs_are_the_oracles(oracle_model, quick_gelu, dtype, tolerance, speed_ups):
    config = ClipConfig.from_dict({**SMALL, "quick_gelu": quick_gelu}, "small")
    torch.manual_seed(0)
    oracle = oracle_model(config).to(dtype)
    ours = create_model(config, speed_ups=speed_ups).to(dtype)
    load_state(ours, oracle.state_dict())
    image, text = batch(config, dtype)
    for normalize in (False, True):
        expected = oracle.encode_image(image, normalize=normalize)
        torch.testing.assert_close(ours.encode_image(image, normalize), expected, rtol=0, atol=tolerance)
        expected = oracle.encode_text(text, normalize=normalize)
        for length in (None, 8):
            actual = ours.encode_text(text, normalize, text_length=length)
            torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
    for actual, expected in zip(ours(image, text), oracle(image, text), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parity
def test_gradients_are_the_oracles(open_clip, oracle_model):
    config = ClipConfig.from_dict(SMALL, "small")
    torch.manual_seed(0)
    oracle = oracle_model(config).double()
    ours = create_model(config).double()
    load_state(ours, oracle.state_dict())
    image, text = batch(config, torch.float64)
    loss = open_clip.ClipLoss()
    loss(*oracle(image, text)).backward()
    loss(*ours(image, text, 8)).backward()
    wanted = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-9, atol=1e-13, msg=name)


@pytest.mark.parity
def test_bfloat16_outputs_are_as_near_the_oracle_as_bfloat16_allows(oracle_model):
    config = ClipConfig.from_dict(SMALL, "small")
    torch.manual_seed(0)
    oracle, ours = oracle_model(config), create_model(config)
    load_state(ours, oracle.state_dict())
    image, text = batch(config, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected, actual = oracle(image, text), ours(image, text, 8)
    for wanted, got in zip(expected, actual, strict=True):
        assert got.dtype == wanted.dtype
        torch.testing.assert_close(got.float(), wanted.float(), rtol=0, atol=2e-2)


@pytest.mark.parity
def test_full_size_vit_b_32_gives_the_oracles_features(oracle_model):
    ours = create_model("ViT-B-32", seed=3)
    with torch.device("meta"):
        oracle = oracle_model(ours.config)
    # The causal mask is not in the state dict, so it has to be made again after a model was built on meta.
    oracle.load_state_dict(ours.state_dict(), assign=True)
    oracle.attn_mask = torch.full((77, 77), float("-inf")).triu_(1)
    image, text = batch(ours.config, torch.float32, rows=2)
    with torch.no_grad():
        for actual, expected in zip(ours(image, text), oracle(image, text), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parity
def test_an_exported_folder_loads_in_open_clip(open_clip, tmp_path):
    ours = create_model("ViT-tiny-8-32", seed=4)
    save_weights(ours.state_dict(), tmp_path / WEIGHTS_FILE)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(open_clip_config(ours.config)))
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    image, text = batch(ours.config, torch.float32)
    theirs.eval()
    with torch.no_grad():
        for actual, expected in zip(theirs(image, text), ours(image, text), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    assert preprocess.transforms[-1].mean == [0.48145466, 0.4578275, 0.40821073]
    assert preprocess.transforms[1].size == (32, 32)
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a diagram"])
    assert tokens.shape == (1, 24)


@pytest.mark.parity
def test_weights_saved_by_open_clip_load_here(oracle_model, tmp_path):
    config = ClipConfig.from_dict(SMALL, "small")
    oracle = oracle_model(config)
    save_weights(oracle.state_dict(), tmp_path / "theirs.safetensors")
    ours = create_model(config)
    load_file(ours, tmp_path / "theirs.safetensors")
    assert all(torch.equal(value, oracle.state_dict()[key]) for key, value in ours.state_dict().items())


@pytest.mark.parity
def test_initial_weights_have_the_oracles_spread(oracle_model):
    config = get_config("ViT-tiny-8-32")
    torch.manual_seed(0)
    theirs, ours = oracle_model(config).state_dict(), create_model(config).state_dict()
    for key, tensor in ours.items():
        if tensor.numel() >= 4096:
            assert tensor.std().item() == pytest.approx(theirs[key].std().item(), rel=0.06), key
        elif theirs[key].std(correction=0) == 0:
            torch.testing.assert_close(tensor, theirs[key], msg=key)

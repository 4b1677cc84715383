"""The towers: shapes, causality, pooling, and speed-ups that change nothing but speed."""

import subprocess
import sys

import pytest
import torch

from clip_trainer.model import CLIP, ClipConfig, ClipOutput, SpeedUps, create_model

CONFIG = ClipConfig.from_dict(
    {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 16, "layers": 3, "head_width": 8},
        "text_cfg": {"context_length": 10, "vocab_size": 64, "width": 24, "heads": 3, "layers": 2},
    },
    "test",
)
END = 63


def model(config=CONFIG, speed_ups=None, seed=0, dtype=torch.float64):
    return create_model(config, seed=seed, speed_ups=speed_ups).to(dtype)


def images(count=4, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def captions(lengths=(3, 7, 2, 5), context=10, seed=0):
    """Random ids that end with the end token at the given lengths, then zeros."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, END, (len(lengths), context), generator=generator)
    for row, length in zip(text, lengths, strict=True):
        row[length - 1] = END
        row[length:] = 0
    return text


def gradients(net, text_length=None):
    """Gradients of a scalar that depends on every output."""
    out = net(images(), captions(), text_length)
    weights = torch.linspace(-1, 1, out.image_features.numel(), dtype=torch.float64).reshape_as(out.image_features)
    ((out.image_features * weights).sum() + (out.text_features * weights.cos()).sum() + out.logit_scale).backward()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def test_forward_returns_unit_features_and_the_scale():
    out = model()(images(), captions())
    assert isinstance(out, ClipOutput)
    assert out.image_features.shape == out.text_features.shape == (4, 12)
    for features in (out.image_features, out.text_features):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(4, dtype=torch.float64))
    assert out.logit_scale.shape == ()
    assert out.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-6)


def test_encoding_alone_is_not_normalised_unless_asked():
    net = model()
    image, text = net.encode_image(images()), net.encode_text(captions())
    assert (image.norm(dim=-1) - 1).abs().max() > 0.1
    out = net(images(), captions())
    torch.testing.assert_close(torch.nn.functional.normalize(image, dim=-1), out.image_features)
    torch.testing.assert_close(net.encode_text(captions(), normalize=True), out.text_features)
    assert not torch.allclose(text, out.text_features)


def test_the_pooled_last_block_is_exact():
    fast, slow = model(), model(speed_ups=SpeedUps(pooled_last_block=False))
    for a, b in zip(fast(images(), captions()), slow(images(), captions()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    expected = gradients(slow)
    for name, gradient in gradients(fast).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-13, msg=name)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("text_length", [7, 8, 10])
def test_truncated_text_is_exact(pooled, text_length):
    speed_ups = SpeedUps(pooled_last_block=pooled)
    expected = gradients(model(speed_ups=speed_ups))
    for name, gradient in gradients(model(speed_ups=speed_ups), text_length).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-13, msg=name)


def test_every_parameter_gets_a_gradient():
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients(model()).values())


def test_text_after_the_end_token_does_not_matter():
    net = model()
    padded, noisy = captions(), captions()
    noisy[0, 3:] = 5
    torch.testing.assert_close(net.encode_text(padded), net.encode_text(noisy), rtol=1e-12, atol=1e-14)


def test_text_before_the_end_token_matters():
    net, text = model(), captions()
    changed = text.clone()
    changed[1, 2] = 1 if int(text[1, 2]) != 1 else 2
    assert (net.encode_text(text) - net.encode_text(changed))[1].abs().max() > 1e-6


def test_patches_see_each_other():
    net, image = model(), images(1)
    changed = image.clone()
    changed[..., -1, -1] += 1
    assert (net.encode_image(image) - net.encode_image(changed)).abs().max() > 1e-6


def test_quick_gelu_is_another_function():
    quick = model(CONFIG.model_copy(update={"quick_gelu": True}))
    plain = model()
    quick.load_state_dict(plain.state_dict())
    assert (quick.encode_image(images()) - plain.encode_image(images())).abs().max() > 1e-5
    x = torch.linspace(-3, 3, 7)
    activation = quick.visual.transformer.resblocks[0].mlp.gelu
    torch.testing.assert_close(activation(x), x * torch.sigmoid(1.702 * x))


def test_no_rows_give_no_features():
    out = model()(images(0), captions(()))
    assert out.image_features.shape == out.text_features.shape == (0, 12)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="16x24, the model takes 16x16"):
        model().encode_image(torch.zeros(1, 3, 16, 24, dtype=torch.float64))


def test_the_meta_device_holds_shapes_only():
    net = create_model("ViT-B-32", device="meta")
    assert all(parameter.is_meta for parameter in net.parameters())
    assert sum(parameter.numel() for parameter in net.parameters()) == 151_277_313


def test_a_new_model_trains_and_keeps_nothing_on_meta():
    net = create_model(CONFIG)
    assert isinstance(net, CLIP)
    assert net.training
    assert not any(tensor.is_meta for tensor in net.state_dict().values())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_creating_a_model_does_not_load_the_compiler():
    """It costs CPU-seconds at every start, and so at every recovery."""
    code = (
        "import sys; from clip_trainer.model import create_model; create_model('ViT-tiny-8-32'); "
        "sys.exit(bool({'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Precision modes: which tensors are stored in which type."""

from collections import Counter

import pytest
import torch

from clip_trainer.model import ClipConfig, create_model, get_precision
from clip_trainer.model.precision import cast_parameters
from clipctl.contract.errors import SpecError


def dtypes(precision):
    net = create_model("ViT-B-32", precision=precision, device="meta")
    return Counter(tensor.dtype for tensor in net.state_dict().values())


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", {torch.float32: 302}),
        ("amp", {torch.float32: 302}),
        ("amp_bf16", {torch.float32: 302}),
        ("amp_bfloat16", {torch.float32: 302}),
        # OpenCLIP 3.3.0 splits its 302 tensors in the same way.
        ("bf16", {torch.bfloat16: 195, torch.float32: 107}),
        ("fp16", {torch.float16: 195, torch.float32: 107}),
        ("pure_bf16", {torch.bfloat16: 302}),
        ("pure_fp16", {torch.float16: 302}),
    ],
)
def test_stored_types(precision, expected):
    assert dtypes(precision) == expected


def test_unknown_precision_suggests_the_nearest():
    with pytest.raises(SpecError) as caught:
        get_precision("amp_bf61")
    assert "Did you mean amp_bf16?" in caught.value.hint


@pytest.mark.parametrize("name", ["fp32", "amp", "amp_bf16", "bf16", "fp16", "pure_bf16", "pure_fp16"])
def test_every_mode_runs_forward_and_backward(name):
    precision = get_precision(name)
    net = create_model("ViT-tiny-8-32", precision=name)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(precision.image_dtype)
    text = torch.zeros(2, 24, dtype=torch.int64)
    text[:, :3] = torch.tensor([49406, 320, 49407])
    with precision.autocast("cpu"):
        out = net(image, text, 8)
        (out.image_features * out.text_features).sum().backward()
    exact = create_model("ViT-tiny-8-32")(image.float(), text, 8)
    assert (out.image_features.float() - exact.image_features).abs().max() < 0.03
    assert (out.text_features.float() - exact.text_features).abs().max() < 0.03
    assert all(p.grad is not None and p.grad.dtype == p.dtype for n, p in net.named_parameters() if n != "logit_scale")


def test_autocast_computes_in_bfloat16():
    net = create_model("ViT-tiny-8-32")
    with get_precision("amp_bf16").autocast("cpu"):
        assert net.encode_image(torch.zeros(1, 3, 32, 32)).dtype == torch.bfloat16
    with get_precision("fp32").autocast("cpu"):
        assert net.encode_image(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


def test_only_fp16_autocast_scales_the_loss():
    assert [name for name in NAMES if get_precision(name).needs_scaler] == ["amp"]


NAMES = ("fp32", "amp", "amp_bf16", "amp_bfloat16", "bf16", "fp16", "pure_bf16", "pure_fp16")
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 16,
        "patch_size": 8,
        "width": 16,
        "layers": 2,
        "head_width": 8,
        "ls_init_value": 0.5,
        "scale_heads": True,
        "scale_fc": True,
    },
    "text_cfg": {
        "context_length": 6,
        "vocab_size": 20,
        "width": 24,
        "heads": 2,
        "layers": 2,
        "embed_cls": True,
        "scaled_cosine_attn": True,
        "proj_bias": True,
    },
    "custom_text": True,
    "init_logit_bias": -1.0,
}
POOLED = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2}}


@pytest.mark.parametrize("fields", [SMALL, POOLED])
@pytest.mark.parametrize("name", NAMES)
def test_every_mode_runs_with_every_part(name, fields):
    precision, config = get_precision(name), ClipConfig.from_dict(fields, "small")
    net = create_model(config, precision=name)
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    text = torch.tensor([[3, 19, 0, 0, 0, 0], [4, 5, 19, 0, 0, 0]])
    exact = create_model(config)(image, text)
    with precision.autocast("cpu"):
        out = net(image.to(precision.image_dtype), text)
    assert (out.image_features.float() - exact.image_features).abs().max() < 0.05
    assert (out.text_features.float() - exact.text_features).abs().max() < 0.05
    (out.image_features * out.text_features).float().sum().backward()


def test_layer_norms_keep_their_statistics_in_fp32():
    """In fp16 the variance of large values overflows; the modes that keep fp32 norms must not."""
    norm = create_model("ViT-tiny-8-32", precision="fp16").visual.ln_pre
    assert norm.weight.dtype == torch.float32
    x = torch.randn(4, norm.weight.numel(), generator=torch.Generator().manual_seed(0)) * 3000
    out = norm(x.half())
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), norm(x), rtol=0, atol=5e-3)


def test_converting_keeps_what_is_frozen_and_the_parameters_themselves():
    net = create_model("ViT-tiny-8-32")
    net.lock_image_tower()
    before = {name: id(parameter) for name, parameter in net.named_parameters()}
    cast_parameters(net, get_precision("bf16"))
    assert {name: id(parameter) for name, parameter in net.named_parameters()} == before
    assert not any(parameter.requires_grad for parameter in net.visual.parameters())
    assert net.visual.conv1.weight.dtype == torch.bfloat16

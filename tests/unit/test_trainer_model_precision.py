"""Precision modes: which tensors are stored in which type."""

from collections import Counter

import pytest
import torch

from clip_trainer.model import create_model, get_precision
from clipctl.contract.errors import SpecError


def dtypes(precision):
    net = create_model("ViT-B-32", precision=precision, device="meta")
    return Counter(tensor.dtype for tensor in net.state_dict().values())


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", {torch.float32: 302}),
        ("amp_bf16", {torch.float32: 302}),
        ("amp_bfloat16", {torch.float32: 302}),
        # OpenCLIP 3.3.0 splits its 302 tensors in the same way.
        ("bf16", {torch.bfloat16: 195, torch.float32: 107}),
        ("pure_bf16", {torch.bfloat16: 302}),
    ],
)
def test_stored_types(precision, expected):
    assert dtypes(precision) == expected


def test_unknown_precision_suggests_the_nearest():
    with pytest.raises(SpecError) as caught:
        get_precision("amp_bf61")
    assert "Did you mean amp_bf16?" in caught.value.hint


@pytest.mark.parametrize("name", ["fp32", "amp_bf16", "bf16", "pure_bf16"])
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

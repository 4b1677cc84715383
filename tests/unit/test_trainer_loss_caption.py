"""The captioning loss: additive over pieces, padding left out, no wide copy of the logits."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from clip_trainer.loss import caption, caption_loss, count_tokens


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(7, 6, 13, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 13, (7, 6), generator=generator)
    return logits.requires_grad_(), labels


def reference(logits, labels, pad_id=0):
    return cross_entropy(logits.permute(0, 2, 1), labels, ignore_index=pad_id)


@pytest.mark.parametrize("pad_id", [0, 5])
@pytest.mark.parametrize("chunk", [1, 30, 1 << 20])
def test_it_is_the_mean_over_tokens(batch, pad_id, chunk, monkeypatch):
    monkeypatch.setattr(caption, "_CHUNK_ELEMENTS", chunk)
    logits, labels = batch
    out = caption_loss(logits, labels, tokens=count_tokens(labels, pad_id), pad_id=pad_id)
    torch.testing.assert_close(out, reference(logits, labels, pad_id), rtol=1e-13, atol=0)
    wanted = torch.autograd.grad(3 * reference(logits, labels, pad_id), logits)[0]
    torch.testing.assert_close(torch.autograd.grad(3 * out, logits)[0], wanted, rtol=1e-12, atol=1e-15)


def test_pieces_add_up(batch):
    logits, labels = batch
    tokens = int(count_tokens(labels))
    assert 0 < tokens < labels.numel()
    parts = [caption_loss(logits[rows], labels[rows], tokens=tokens) for rows in (slice(0, 3), slice(3, 7))]
    torch.testing.assert_close(sum(parts), reference(logits, labels), rtol=1e-13, atol=0)


def test_backward_agrees_with_finite_differences(batch):
    logits, labels = batch
    assert torch.autograd.gradcheck(
        lambda x: caption_loss(x, labels[:2], tokens=9), logits[:2].detach().requires_grad_()
    )


def test_padding_alone_costs_nothing(batch):
    logits, labels = batch
    out = caption_loss(logits, torch.zeros_like(labels), tokens=count_tokens(torch.zeros_like(labels)))
    out.backward()
    assert out.item() == 0.0
    assert not logits.grad.any()


def test_no_rows_cost_nothing(batch):
    logits, labels = batch
    out = caption_loss(logits[:0], labels[:0], tokens=5)
    out.backward()
    assert out.item() == 0.0


def test_half_precision_is_widened(batch):
    logits, labels = batch
    half = logits.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = caption_loss(half, labels, tokens=count_tokens(labels))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), reference(half.double(), labels), rtol=1e-6, atol=0)
    out.backward()
    assert half.grad.dtype == torch.bfloat16


def test_what_is_saved_is_the_logits_themselves(batch):
    """The vocabulary makes them the largest tensor of a step: no second one of their size may live on."""
    logits, labels = batch
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        caption_loss(logits, labels, tokens=9)
    assert [size for size in saved if size > labels.numel()] == [logits.numel()]


def test_wrong_shapes_are_refused(batch):
    logits, labels = batch
    with pytest.raises(ValueError, match="do not belong"):
        caption_loss(logits, labels[:, 1:], tokens=3)
    with pytest.raises(ValueError, match="do not belong"):
        caption_loss(logits.flatten(0, 1), labels, tokens=3)

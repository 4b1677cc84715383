"""Micro-batching gives the losses and every gradient of the large batch, those of logit scale and bias included."""

import pytest
import torch
from torch.nn import functional

from clip_testkit.contrastive import dense, dense_distillation, dense_sigmoid
from clip_testkit.towers import Towers, pieces, samples
from clip_trainer.loss import ContrastiveLoss, DistillationLoss, SigmoidLoss, backward_cached

ROWS = 11
TOKENS = int((samples(ROWS)[2] != 0).sum())
SIZES = [[11], [6, 5], [4, 4, 3], [1] * 11, [11, 0], [0, 11]]


def clip(student, teacher=None):
    return {"contrastive_loss": ContrastiveLoss(3)(student.image, student.text, student.scale)}


def siglip(student, teacher=None):
    image, text, scale, bias = student
    return {"contrastive_loss": SigmoidLoss(3)(image, text, scale, logit_bias=bias)}


def taught(contrast):
    return lambda student, teacher: contrast(student) | {"distill_loss": DistillationLoss(4)(student, teacher)}


def dense_total(model, contrast, part):
    """The same losses in one piece with all of each matrix in memory."""
    features, sums = model.features_and_terms(part)
    image, text, scale, bias = features
    total = dense(image, text, scale) if contrast is clip else dense_sigmoid(image, text, scale, bias)
    if sums:
        labels = part[2].flatten()
        logits = model.decoder(part[0]).view(len(labels), -1)
        total = total + 2 * functional.cross_entropy(logits, labels, ignore_index=0)
    with torch.no_grad():
        teacher = model.teacher(part)
    return total if teacher is None else total + dense_distillation(features, teacher)


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


CASES = {
    "clip": (clip, clip, {}),
    "siglip": (siglip, siglip, {"bias": -3.0}),
    "coca": (clip, clip, {"tokens": TOKENS}),
    "distilled clip": (taught(clip), clip, {"taught": True}),
    "distilled siglip": (taught(siglip), siglip, {"taught": True, "bias": -3.0}),
    "distilled coca": (taught(clip), clip, {"taught": True, "tokens": TOKENS}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_equal_one_large_batch(case, sizes):
    terms, contrast, options = CASES[case]
    whole, split = Towers(**options), Towers(**options)
    total = dense_total(whole, contrast, samples(ROWS))
    total.backward()
    out = backward_cached(pieces(ROWS, sizes), split, terms)
    assert not any(term.requires_grad for term in out.values())
    torch.testing.assert_close(sum(out.values()), total.detach(), rtol=1e-13, atol=0)
    assert gradients(split).keys() == gradients(whole).keys()
    for name, gradient in gradients(split).items():
        torch.testing.assert_close(gradient, gradients(whole)[name], rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.parametrize("sizes", [[11], [6, 5]])
def test_captions_alone_need_one_pass(sizes):
    split, whole = Towers(tokens=TOKENS), Towers()
    out = backward_cached(pieces(ROWS, sizes), split, None, upstream=3.0)
    image, _, labels = samples(ROWS)
    expected = 2 * functional.cross_entropy(whole.decoder(image).view(-1, 9), labels.flatten(), ignore_index=0)
    (3 * expected).backward()
    assert split.calls == ["features_and_terms"] * len(sizes)
    assert out == {"caption_loss": pytest.approx(expected.item(), rel=1e-13)}
    assert gradients(split).keys() == {"decoder.weight", "decoder.bias"}
    torch.testing.assert_close(split.decoder.weight.grad, whole.decoder.weight.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sizes", [[11], [6, 5]])
@pytest.mark.parametrize("frozen", [["image"], ["text"], ["image", "text"]])
def test_frozen_towers_get_no_gradient_and_change_no_other(sizes, frozen):
    options = {"bias": -3.0, "tokens": TOKENS}
    free, locked = Towers(**options), Towers(**options)
    for name in frozen:
        getattr(locked, name).requires_grad_(False)
    for model in (free, locked):
        backward_cached(pieces(ROWS, sizes), model, siglip)
    assert not any(name.startswith(tuple(frozen)) for name in gradients(locked))
    assert {"logit_scale", "logit_bias", "decoder.weight"} <= gradients(locked).keys()
    for name, gradient in gradients(locked).items():
        torch.testing.assert_close(gradient, gradients(free)[name], rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.parametrize("sizes", [[11], [6, 5]])
def test_upstream_scales_the_gradients_and_not_the_losses(sizes):
    once, scaled = Towers(tokens=TOKENS, taught=True), Towers(tokens=TOKENS, taught=True)
    plain = backward_cached(pieces(ROWS, sizes), once, taught(clip))
    assert backward_cached(pieces(ROWS, sizes), scaled, taught(clip), upstream=1024.0) == plain
    for name, gradient in gradients(scaled).items():
        torch.testing.assert_close(gradient, 1024 * gradients(once)[name], rtol=1e-13, atol=0)


def test_gradients_add_to_those_already_there():
    once, twice = Towers(), Towers()
    backward_cached(pieces(ROWS, [6, 5]), once, clip)
    for _ in range(2):
        backward_cached(pieces(ROWS, [6, 5]), twice, clip)
    for name, gradient in gradients(twice).items():
        torch.testing.assert_close(gradient, 2 * gradients(once)[name], rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("sizes", "first", "second", "teacher"), [([11], 0, 1, 1), ([6, 5], 2, 2, 2), ([4, 4, 3], 3, 3, 3)]
)
def test_forward_passes(sizes, first, second, teacher):
    model = Towers(tokens=TOKENS, taught=True)
    backward_cached(pieces(ROWS, sizes), model, taught(clip))
    counts = [model.calls.count(name) for name in ("features", "features_and_terms", "teacher")]
    assert counts == [first, second, teacher]


def test_the_loss_is_called_once_with_the_features_of_all_pieces():
    seen = []

    def loss(student, teacher):
        seen.append((len(student.image), len(student.text), len(teacher.image), teacher.image.requires_grad))
        return clip(student)

    backward_cached(pieces(ROWS, [4, 4, 3]), Towers(taught=True), loss)
    assert seen == [(11, 11, 11, False)]


def masked_gradients(sizes, key):
    model = Towers(dropout=0.5, tokens=TOKENS)
    masks = []
    model.dropout.register_forward_hook(lambda module, inputs, output: masks.append((output != 0).tolist()))
    backward_cached(pieces(ROWS, sizes), model, clip, key=key)
    return masks, gradients(model)


def test_dropout_draws_the_same_mask_in_both_passes():
    masks, _ = masked_gradients([6, 5], key=3)
    assert masks[:2] == masks[2:]
    assert masks[0] != masks[1]


def test_the_key_decides_dropout():
    assert masked_gradients([6, 5], key=3)[0] == masked_gradients([6, 5], key=3)[0]
    assert masked_gradients([6, 5], key=3)[0] != masked_gradients([6, 5], key=4)[0]
    assert masked_gradients([11], key=3)[0] != masked_gradients([11], key=4)[0]


def test_dropout_gradients_equal_those_of_the_masked_large_batch():
    masks, split = masked_gradients([6, 5], key=3)
    whole = Towers(tokens=TOKENS)
    keep = torch.tensor(masks[0] + masks[1], dtype=torch.float64)
    part = samples(ROWS)
    image = functional.normalize(whole.image(part[0]) * keep / 0.5, dim=-1)
    text = functional.normalize(whole.text(part[1]), dim=-1)
    captions = whole.features_and_terms(part)[1]["caption_loss"]
    (dense(image, text, whole.logit_scale.exp()) + captions).backward()
    for name, gradient in split.items():
        torch.testing.assert_close(gradient, gradients(whole)[name], rtol=1e-12, atol=1e-13, msg=name)


def test_global_randomness_is_left_alone():
    model = Towers(dropout=0.5)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    backward_cached(pieces(ROWS, [6, 5]), model, clip)
    assert torch.equal(torch.rand(3), expected)

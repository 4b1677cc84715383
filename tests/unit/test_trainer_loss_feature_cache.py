"""Micro-batching gives the loss and every gradient of the large batch, the logit scale's included."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from clip_testkit.contrastive import dense
from clip_trainer.loss import ContrastiveLoss, LossOutput, backward_cached


class Towers(nn.Module):
    """Two linear towers with dropout, enough to tell exact from nearly exact."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Linear(6, 4, dtype=torch.float64)
        self.text = nn.Linear(5, 4, dtype=torch.float64)
        self.dropout = nn.Dropout(dropout)
        self.logit_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.calls = 0

    def forward(self, pair):
        self.calls += 1
        image = functional.normalize(self.dropout(self.image(pair[0])), dim=-1)
        return image, functional.normalize(self.text(pair[1]), dim=-1), self.logit_scale.exp()


def batch(rows=11):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in (6, 5))


def pieces(rows, sizes):
    image, text = batch(rows)
    return list(zip(image.split(sizes), text.split(sizes), strict=True))


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("sizes", [[11], [6, 5], [4, 4, 3], [1] * 11, [11, 0], [0, 11]])
def test_gradients_equal_one_large_batch(sizes):
    whole = Towers()
    dense(*whole(batch())).backward()
    split = Towers()
    out = backward_cached(pieces(11, sizes), split, ContrastiveLoss(3))
    assert not out.contribution.requires_grad
    torch.testing.assert_close(out.contribution, dense(*whole(batch())).detach(), rtol=1e-13, atol=0)
    for name, gradient in gradients(split).items():
        torch.testing.assert_close(gradient, gradients(whole)[name], rtol=1e-12, atol=1e-13, msg=name)


def test_gradients_add_to_those_already_there():
    once, twice = Towers(), Towers()
    backward_cached(pieces(11, [6, 5]), once, ContrastiveLoss())
    for _ in range(2):
        backward_cached(pieces(11, [6, 5]), twice, ContrastiveLoss())
    for name, gradient in gradients(twice).items():
        torch.testing.assert_close(gradient, 2 * gradients(once)[name], rtol=1e-13, atol=0)


@pytest.mark.parametrize(("sizes", "calls"), [([11], 1), ([6, 5], 4), ([4, 4, 3], 6)])
def test_forward_passes(sizes, calls):
    model = Towers()
    backward_cached(pieces(11, sizes), model, ContrastiveLoss())
    assert model.calls == calls


def test_the_loss_is_called_once_with_the_features_of_all_pieces():
    seen = []

    def loss(image, text, scale):
        seen.append((len(image), len(text)))
        return LossOutput(ContrastiveLoss()(image, text, scale).contribution)

    backward_cached(pieces(11, [4, 4, 3]), Towers(), loss)
    assert seen == [(11, 11)]


def masked_gradients(sizes, key):
    model = Towers(dropout=0.5)
    masks = []
    model.dropout.register_forward_hook(lambda module, inputs, output: masks.append((output != 0).tolist()))
    backward_cached(pieces(11, sizes), model, ContrastiveLoss(), key=key)
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
    whole = Towers()
    keep = torch.tensor(masks[0] + masks[1], dtype=torch.float64)
    image = functional.normalize(whole.image(batch()[0]) * keep / 0.5, dim=-1)
    text = functional.normalize(whole.text(batch()[1]), dim=-1)
    dense(image, text, whole.logit_scale.exp()).backward()
    for name, gradient in split.items():
        torch.testing.assert_close(gradient, gradients(whole)[name], rtol=1e-12, atol=1e-13, msg=name)


def test_global_randomness_is_left_alone():
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    backward_cached(pieces(11, [6, 5]), _model_without_reseeding(), ContrastiveLoss())
    assert torch.equal(torch.rand(3), expected)


def _model_without_reseeding():
    state = torch.random.get_rng_state()
    model = Towers(dropout=0.5)
    torch.random.set_rng_state(state)
    return model

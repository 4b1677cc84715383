"""CoCa: both towers and a caption decoder."""

import inspect

import pytest
import torch
from torch.nn import functional

from clip_testkit import tinymodels
from clip_trainer.model import ClipConfig, create_model
from clip_trainer.model.coca import CoCa
from clip_trainer.model.generation import GenerationOptions
from clipctl.contract.errors import SpecError


def make(**changes):
    model = create_model(ClipConfig.from_dict(tinymodels.COCA | changes, "tiny"))
    tinymodels.fill(model)
    return model.double()


@pytest.fixture
def model():
    return make()


@pytest.fixture
def image():
    return tinymodels.images(16)


@pytest.fixture
def text():
    return tinymodels.texts()


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [("coca_ViT-B-32", 253.56, 629), ("coca_ViT-L-14", 638.45, None), ("coca_base", 440.34, None)],
)
def test_published_sizes(name, parameters, tensors):
    model = create_model(name, device="meta")
    assert isinstance(model, CoCa)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(parameters, abs=0.01)
    assert tensors in (None, len(model.state_dict()))
    assert model.context_length == 76


def test_forward_gives_what_the_losses_need(model, image, text):
    out = model(image, text)
    assert set(out) == {"image_features", "text_features", "logits", "labels", "logit_scale"}
    assert out["logits"].shape == (3, 9, 40)
    for name in ("image_features", "text_features"):
        torch.testing.assert_close(out[name].norm(dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(out["logit_scale"], model.logit_scale.exp())


def test_labels_are_what_each_score_should_predict(model, image, text):
    out = model(image, text)
    assert torch.equal(out["labels"], text[:, 1:])
    # The score at a place sees that place and what is before, not the label.
    changed = text.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 38 + 1
    assert torch.equal(model(image, changed)["logits"][:, :4], out["logits"][:, :4])
    assert not torch.allclose(model(image, changed)["logits"][:, 4], out["logits"][:, 4])


def test_without_labels_there_is_a_score_after_the_last_token(model, image, text):
    out = model(image, text, output_labels=False)
    assert "labels" not in out
    assert out["logits"].shape == (3, 10, 40)
    torch.testing.assert_close(out["logits"][:, :-1], model(image, text)["logits"])


def test_captions_depend_on_the_image_and_features_of_text_do_not(model, image, text):
    out, other = model(image, text), model(image.flip(0), text)
    assert not torch.allclose(out["logits"], other["logits"])
    assert torch.equal(out["text_features"], other["text_features"])


def test_images_can_be_embedded_beforehand(model, image, text):
    made = model(image)
    assert set(made) == {"image_features", "image_embs"}
    assert made["image_embs"].shape == (3, 4, 12)
    given = {"image_latent": made["image_features"], "image_embs": made["image_embs"]}
    for key, value in model(image, text).items():
        assert torch.equal(model(None, text, **given)[key], value)


def test_something_of_the_image_is_needed(model, text):
    with pytest.raises(AssertionError, match="neither images"):
        model(None, text)


def test_features_are_normalised_unless_told_otherwise(model, image, text):
    for encode, given in ((model.encode_image, image), (model.encode_text, text)):
        plain = encode(given, normalize=False)
        assert not torch.allclose(plain.norm(dim=1), torch.ones(3, dtype=torch.float64))
        torch.testing.assert_close(encode(given), functional.normalize(plain, dim=-1))


def test_the_bias_is_passed_on(image, text):
    model = make(init_logit_bias=-5.0)
    assert model(image, text)["logit_bias"] is model.logit_bias


def test_every_parameter_is_trained(model, image, text):
    out = model(image, text)
    loss = functional.cross_entropy(out["logits"].permute(0, 2, 1), out["labels"])
    contrast = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    (loss + contrast.square().mean()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_similarities(model, image, text):
    logits, transposed = model.get_logits(image, text)
    expected = model.logit_scale.exp() * model.encode_image(image) @ model.encode_text(text).T
    torch.testing.assert_close(logits, expected)
    assert torch.equal(transposed, logits.T)


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_cfg": tinymodels.VIT},
        {"text_cfg": tinymodels.TEXT | {"embed_cls": True}},
        {"vision_cfg": tinymodels.RESNET | {"output_tokens": True}},
    ],
)
def test_both_towers_must_give_their_tokens(changes):
    with pytest.raises(SpecError, match="needs the tokens of both towers"):
        make(**changes)


def test_generate_has_the_oracles_signature_with_our_options_behind():
    parameters = list(inspect.signature(CoCa.generate).parameters.values())[1:]
    assert [parameter.name for parameter in parameters[:2]] == ["image", "text"]
    defaults = GenerationOptions()
    assert {p.name: p.default for p in parameters[2:]} == {name: getattr(defaults, name) for name in vars(defaults)}
    assert [p.name for p in parameters[2:]] == list(vars(defaults))


def test_generates_captions(model, image):
    model.float()
    tokens = model.generate(image.float(), seq_len=8, sot_token_id=38, eos_token_id=39)
    assert tokens.dtype == torch.int64
    assert tokens[:, 0].tolist() == [38] * 3
    assert tokens.shape[1] <= 8
    assert model.training


def test_locks_leave_the_decoder_trainable(model):
    model.lock_image_tower()
    model.lock_text_tower()
    names = tinymodels.trainable(model)
    assert {name.split(".")[0] for name in names} == {"logit_scale", "text_decoder"}


def test_no_decay_for_positions_and_class_tokens(model):
    assert model.no_weight_decay() == {
        "visual.positional_embedding",
        "visual.class_embedding",
        "text.positional_embedding",
        "text.cls_emb",
    }


def test_fresh_decoders_are_filled():
    model = create_model(ClipConfig.from_dict(tinymodels.COCA, "tiny"))
    projection = model.text_decoder.text_projection
    assert projection.std().item() == pytest.approx(12**-0.5, rel=0.15)
    other = create_model(ClipConfig.from_dict(tinymodels.COCA, "tiny"), seed=1)
    assert not torch.equal(other.text_decoder.text_projection, projection)


def test_low_precision_scores(image, text):
    config = ClipConfig.from_dict(tinymodels.COCA, "tiny")
    exact = create_model(config)(image.float(), text)["logits"]
    low = create_model(config, precision="bf16")(image.bfloat16(), text)["logits"]
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, rtol=0.1, atol=0.1)

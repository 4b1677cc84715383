"""A model as the losses see it: which inputs its towers get, and in which type its outputs come."""

import pytest
import torch

from clip_testkit.objectivework import CONTEXT, CPU, FP64, SIZE, tiny_batch, tiny_model
from clip_trainer.model import Precision, get_precision
from clip_trainer.train.micro_batch import split
from clip_trainer.train.objective_encoder import Captions, ModelEncoder, Runner
from clip_trainer.vision import OPENAI_PREPROCESS, Preprocess, normalize

ROWS = 5


@pytest.fixture
def part():
    return next(split(tiny_batch((ROWS,)), 100))


class Recorder(torch.nn.Module):
    """Two towers that remember what they were given."""

    def __init__(self, dtype=torch.float32, bias=None):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor([0.5], dtype=dtype))
        self.logit_bias = None if bias is None else torch.nn.Parameter(torch.tensor([bias], dtype=dtype))
        self.seen = {}

    def encode_image(self, image, normalize=False):
        self.seen["image"] = (image, normalize, torch.is_autocast_enabled("cpu"))
        return image.flatten(1)[:, :4]

    def encode_text(self, text, normalize=False):
        self.seen["text"] = (text, normalize)
        return text[:, :4].to(self.logit_scale.dtype)


class Truncating(Recorder):
    """One whose text tower can leave padding out."""

    def encode_text(self, text, normalize=False, text_length=None):
        self.seen["length"] = text_length
        return super().encode_text(text, normalize)


def test_towers_get_normalised_images_and_all_tokens(part):
    model = Recorder()
    Runner(model, get_precision("fp32"), Preprocess((0.5,) * 3, (0.25,) * 3), CPU).features(part)
    image, wants_unit, autocast = model.seen["image"]
    assert torch.equal(image, normalize(part.images, (0.5,) * 3, (0.25,) * 3))
    assert (wants_unit, model.seen["text"][1], autocast) == (True, True, False)
    assert torch.equal(model.seen["text"][0], part.tokens)
    assert image.shape == (ROWS, 3, SIZE, SIZE)
    assert part.tokens.shape == (ROWS, CONTEXT)


def test_the_text_length_goes_to_towers_that_know_it(part):
    model = Truncating()
    Runner(model, get_precision("fp32"), OPENAI_PREPROCESS, CPU).features(part)
    assert model.seen["length"] == part.text_length == 8


@pytest.mark.parametrize(
    ("precision", "dtype", "autocast"), [("bf16", torch.bfloat16, False), ("amp_bf16", torch.float32, True)]
)
def test_the_precision_decides_type_and_autocast(part, precision, dtype, autocast):
    model = Recorder()
    Runner(model, get_precision(precision), OPENAI_PREPROCESS, CPU).features(part)
    assert model.seen["image"][0].dtype == dtype
    assert model.seen["image"][2] is autocast


def test_outputs_are_at_least_float32_and_numbers_have_no_dimension(part):
    runner = Runner(
        Recorder(torch.bfloat16, bias=-3.0), Precision("x", weight_dtype=torch.bfloat16), OPENAI_PREPROCESS, CPU
    )
    out = runner.features(part)
    assert {tensor.dtype for tensor in out} == {torch.float32}
    assert out.scale.shape == out.bias.shape == ()
    assert out.scale.item() == pytest.approx(torch.tensor(0.5).exp().item())
    assert out.bias.item() == -3.0


def test_float64_stays_float64(part):
    out = Runner(tiny_model("siglip"), FP64, OPENAI_PREPROCESS, CPU).features(part)
    assert {tensor.dtype for tensor in out} == {torch.float64}


def test_a_model_without_bias_gives_none(part):
    assert Runner(tiny_model("clip"), FP64, OPENAI_PREPROCESS, CPU).features(part).bias is None


@pytest.mark.parametrize("name", ["clip", "siglip", "coca"])
def test_features_are_what_the_model_says(part, name):
    model = tiny_model(name)
    model.output_dict = True
    images = normalize(part.images, OPENAI_PREPROCESS.mean, OPENAI_PREPROCESS.std, torch.float64)
    expected = model(images, part.tokens)
    seen = Runner(model, FP64, OPENAI_PREPROCESS, CPU).features(part)
    torch.testing.assert_close(seen.image, expected["image_features"], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(seen.text, expected["text_features"], rtol=1e-12, atol=1e-13)
    assert seen.scale == expected["logit_scale"].reshape(())


class TestEncoder:
    def test_without_captions_there_is_no_decoder(self, part):
        model = tiny_model("coca")
        calls = []
        model.text_decoder.register_forward_hook(lambda *_: calls.append(1))
        encoder = ModelEncoder(Runner(model, FP64, OPENAI_PREPROCESS, CPU))
        assert encoder.features_and_terms(part)[1] == {}
        encoder.features(part)
        assert calls == []
        encoder.with_captions(Captions(1.0, torch.tensor([4]))).features_and_terms(part)
        assert calls == [1]

    def test_captions_are_weighed_and_divided_by_the_tokens_of_the_batch(self, part):
        runner = Runner(tiny_model("coca"), FP64, OPENAI_PREPROCESS, CPU)
        one = ModelEncoder(runner, captions=Captions(1.0, torch.tensor([10]))).features_and_terms(part)[1]
        other = ModelEncoder(runner, captions=Captions(3.0, torch.tensor([5]))).features_and_terms(part)[1]
        assert other["caption_loss"].item() == pytest.approx(6 * one["caption_loss"].item(), rel=1e-12)

    def test_the_teacher_is_asked_only_if_there_is_one(self, part):
        student, teacher = (Runner(tiny_model(name), FP64, OPENAI_PREPROCESS, CPU) for name in ("clip", "teacher"))
        assert ModelEncoder(student).teacher(part) is None
        assert not ModelEncoder(student).has_teacher
        encoder = ModelEncoder(student, teacher)
        assert encoder.has_teacher
        assert encoder.with_captions(None).has_teacher
        assert encoder.teacher(part).image.shape == (ROWS, 8)

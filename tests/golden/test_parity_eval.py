"""Evaluation gives OpenCLIP's numbers: names and prompts, classifiers, accuracy, retrieval, losses."""

from types import SimpleNamespace

import pytest
import torch

from clip_testkit.evalwork import small_encoder, stream_of, write_captioned_dataset
from clip_testkit.rankwork import group_of
from clip_testkit.shards import png
from clip_testkit.training import CLASSES, SMALL_MODEL, write_labelled_dataset
from clip_trainer.eval import prompts
from clip_trainer.eval.classifier import build_zero_shot_classifier, build_zero_shot_classifier_legacy
from clip_trainer.eval.encoder import encoder_for
from clip_trainer.eval.retrieval import get_clip_metrics
from clip_trainer.eval.validation import validate
from clip_trainer.eval.zero_shot import Classifiers, zero_shot
from clip_trainer.model import ClipConfig, create_model, get_precision
from clip_trainer.vision import OPENAI_PREPROCESS, decode_image, eval_transform

pytestmark = pytest.mark.parity
ALONE = group_of(0, 1)
SAMPLES = 25
COCA = {
    **SMALL_MODEL,
    "vision_cfg": {**SMALL_MODEL["vision_cfg"], "attentional_pool": True, "output_tokens": True},
    "text_cfg": {**SMALL_MODEL["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"width": 16, "context_length": 16, "heads": 2, "layers": 1},
    "custom_text": True,
}
COCA["vision_cfg"]["attn_pooler_heads"] = COCA["text_cfg"]["heads"] = 2


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture(scope="module")
def oracle(open_clip, encoder):
    from open_clip.model import CLIP

    model = CLIP(**SMALL_MODEL, output_dict=True)
    model.load_state_dict(encoder.model.state_dict())
    return model.eval()


def arguments(**changes):
    settings = {"device": "cpu", "precision": "fp32", "batch_size": 8, "distributed": False, "horovod": False}
    return SimpleNamespace(**settings, rank=0, val_frequency=1, epochs=1, save_logs=False, wandb=False, **changes)


def pixels(numbers):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_PREPROCESS.mean, OPENAI_PREPROCESS.std))
    images = torch.stack([eval_transform(decode_image(png(i)), 16) for i in numbers])
    return (images.float() / 255 - mean) / std


def oracle_evaluation(open_clip, model, captions, batch):
    """Metrics of OpenCLIP's `evaluate` on numbered pictures with these captions."""
    from open_clip_train.train import evaluate

    images, tokens = pixels(range(len(captions))), open_clip.SimpleTokenizer(context_length=16)(captions)

    class Batches(list):
        num_samples = len(captions)

    batches = Batches(zip(images.split(batch), tokens.split(batch), strict=True))
    return evaluate(model, {"val": SimpleNamespace(dataloader=batches)}, 1, arguments())


class TestPrompts:
    def test_names_and_templates(self, open_clip):
        assert prompts.IMAGENET_CLASSNAMES == open_clip.IMAGENET_CLASSNAMES
        for ours, theirs in (
            (prompts.OPENAI_IMAGENET_TEMPLATES, open_clip.OPENAI_IMAGENET_TEMPLATES),
            (prompts.SIMPLE_IMAGENET_TEMPLATES, open_clip.SIMPLE_IMAGENET_TEMPLATES),
        ):
            assert [template("crane") for template in ours] == [template("crane") for template in theirs]


class TestClassifier:
    @pytest.mark.parametrize("kind", ["functions", "strings", "ours"])
    @pytest.mark.parametrize("at_once", [10, None])
    def test_weights(self, open_clip, oracle, encoder, kind, at_once):
        templates = {
            "functions": open_clip.OPENAI_IMAGENET_TEMPLATES,
            "strings": [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES],
            "ours": prompts.OPENAI_IMAGENET_TEMPLATES,
        }[kind]
        names, tokenizer = open_clip.IMAGENET_CLASSNAMES[:13], open_clip.SimpleTokenizer(context_length=16)
        theirs = open_clip.build_zero_shot_classifier(oracle, tokenizer, names, templates, at_once)
        ours = build_zero_shot_classifier(encoder.model, tokenizer, names, templates, at_once, "cpu")
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)

    def test_legacy(self, open_clip, oracle, encoder):
        names, tokenizer = open_clip.IMAGENET_CLASSNAMES[:3], open_clip.SimpleTokenizer(context_length=16)
        templates = open_clip.SIMPLE_IMAGENET_TEMPLATES
        theirs = open_clip.build_zero_shot_classifier_legacy(oracle, tokenizer, names, templates)
        ours = build_zero_shot_classifier_legacy(encoder.model, tokenizer, names, templates)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_accuracy(open_clip, oracle, encoder, tmp_path, monkeypatch):
    from open_clip_train import zero_shot as theirs_module
    from open_clip_train.zero_shot import run

    # It calls float() on arrays of shape [1], which numpy no longer converts.
    monkeypatch.setattr(theirs_module, "float", lambda array: array.item(), raising=False)
    write_labelled_dataset(tmp_path / "data", [11, 9, 5])
    classes = (*CLASSES, *(f"class {i}" for i in range(20)))
    weights = Classifiers(encoder, ALONE).get(classes, prompts.SIMPLE_IMAGENET_TEMPLATES)
    found = zero_shot(encoder, ALONE, stream_of(str(tmp_path / "data"), encoder), weights, "data")
    labels = torch.arange(SAMPLES) % len(CLASSES)
    batches = list(zip(pixels(range(SAMPLES)).split(8), labels.split(8), strict=True))
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    theirs = open_clip.build_zero_shot_classifier(oracle, tokenizer, classes, open_clip.SIMPLE_IMAGENET_TEMPLATES)
    assert (found["top1"], found["top5"]) == run(oracle, theirs, batches, arguments())


@pytest.mark.parametrize("pairs", [1, 2, 9, 300])
def test_clip_metrics(open_clip, pairs):
    from open_clip_train.train import get_clip_metrics as theirs

    generator = torch.Generator().manual_seed(pairs)
    images = torch.nn.functional.normalize(torch.randn(pairs, 16, generator=generator), dim=-1)
    texts = torch.nn.functional.normalize(images + torch.randn(pairs, 16, generator=generator), dim=-1)
    scale = torch.tensor(14.3)
    assert get_clip_metrics(images, texts, scale) == pytest.approx(theirs(images, texts, scale), abs=1e-9)


def test_validation(open_clip, oracle, encoder, tmp_path):
    write_captioned_dataset(tmp_path / "data", [11, 9, 5])
    pairs = stream_of(str(tmp_path / "data"), encoder)
    found = validate(encoder, ALONE, pairs, captions="first", loss_batch=8, name="data")
    theirs = oracle_evaluation(open_clip, oracle, [f"picture {i} one" for i in range(SAMPLES)], batch=8)
    theirs.pop("epoch")
    assert {name: found[name] for name in theirs} == pytest.approx(theirs, abs=1e-5)


def test_the_loss_of_captions(open_clip, tmp_path):
    """OpenCLIP counts it right if there is one batch only."""
    from open_clip.coca_model import CoCa

    model = create_model(ClipConfig.from_dict(COCA, "coca"), "fp32", 3).eval()
    shape = {name: COCA[name] for name in ("embed_dim", "multimodal_cfg", "text_cfg", "vision_cfg")}
    oracle = CoCa(**shape)
    oracle.load_state_dict(model.state_dict())
    encoder = encoder_for(model, get_precision("fp32"), torch.device("cpu"), OPENAI_PREPROCESS)
    write_captioned_dataset(tmp_path / "data", [11, 9, 5])
    pairs = stream_of(str(tmp_path / "data"), encoder)
    found = validate(encoder, ALONE, pairs, captions="first", loss_batch=25, name="data")
    theirs = oracle_evaluation(open_clip, oracle.eval(), [f"picture {i} one" for i in range(SAMPLES)], batch=25)
    assert {"val_generative_loss", "clip_val_loss"} <= set(theirs)
    theirs.pop("epoch")
    assert {name: found[name] for name in theirs} == pytest.approx(theirs, abs=1e-5)

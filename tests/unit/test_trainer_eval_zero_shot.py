"""Zero-shot accuracy against a dense computation in a few lines, from shards and from folders."""

import sys
import types

import pytest
import torch

from clip_testkit.evalwork import evaluation, small_encoder, stream_of, write_class_folders
from clip_testkit.rankwork import group_of
from clip_testkit.shards import png, write_dataset
from clip_testkit.training import CLASSES, write_labelled_dataset
from clip_trainer.eval import encoder as encoder_module
from clip_trainer.eval import zero_shot as zero_shot_module
from clip_trainer.eval.classifier import build_zero_shot_classifier, build_zero_shot_classifier_legacy
from clip_trainer.eval.evaluate import Evaluator, evaluation_mode
from clip_trainer.eval.prompts import Template, resolve_templates
from clip_trainer.eval.zero_shot import Classifiers, zero_shot
from clip_trainer.vision import OPENAI_PREPROCESS, decode_image, eval_transform
from clipctl.contract.errors import CorruptError
from clipctl.contract.sections import EvalSection

SAMPLES = 25
ALONE = group_of(0, 1)
TEMPLATES = resolve_templates(("picture {}", "number {}"))


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "data"
    write_labelled_dataset(folder, [11, 9, 5])
    return str(folder)


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


def dense_images(encoder, numbers):
    """Images embedded at once by the model's own method."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_PREPROCESS.mean, OPENAI_PREPROCESS.std))
    pixels = torch.stack([eval_transform(decode_image(png(i)), 16) for i in numbers])
    with torch.inference_mode():
        return encoder.model.encode_image((pixels.float() / 255 - mean) / std, normalize=True)


def dense_classifier(encoder, classes, templates=TEMPLATES):
    with torch.inference_mode():
        prompts = [
            encoder.model.encode_text(encoder.tokens([t(c) for t in templates]), normalize=True) for c in classes
        ]
        return torch.nn.functional.normalize(torch.stack([rows.mean(0) for rows in prompts]), dim=-1).T


def section(url, **changes):
    return {"data": url, "classes": list(CLASSES), "templates": [str(t) for t in TEMPLATES], **changes}


class TestClassifier:
    @pytest.mark.parametrize("at_once", [1, 2, 10, None])
    def test_it_is_the_normalised_mean_over_templates(self, encoder, at_once):
        found = build_zero_shot_classifier(encoder.model, encoder.tokens, CLASSES, TEMPLATES, at_once)
        torch.testing.assert_close(found, dense_classifier(encoder, CLASSES), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.norm(dim=0), torch.ones(3))

    def test_the_legacy_variant_agrees(self, encoder):
        found = build_zero_shot_classifier_legacy(encoder.model, encoder.tokens, CLASSES, TEMPLATES)
        torch.testing.assert_close(found, dense_classifier(encoder, CLASSES), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        "templates", [["picture {}", "number {}"], [lambda c: f"picture {c}", lambda c: f"number {c}"], TEMPLATES]
    )
    def test_templates_may_be_strings_or_functions(self, encoder, templates):
        found = build_zero_shot_classifier(encoder.model, encoder.tokens, CLASSES, templates)
        torch.testing.assert_close(found, dense_classifier(encoder, CLASSES), rtol=1e-5, atol=1e-6)

    def test_progress_can_be_shown(self, encoder, monkeypatch):
        shown = []
        bar = types.ModuleType("tqdm")
        bar.tqdm = lambda batches, unit_scale: shown.extend([len(batches), unit_scale]) or batches
        monkeypatch.setitem(sys.modules, "tqdm", bar)
        found = build_zero_shot_classifier(encoder.model, encoder.tokens, CLASSES, TEMPLATES, 2, use_tqdm=True)
        assert (shown, found.shape) == ([2, 2], (16, 3))

    def test_nothing_to_classify_is_refused(self, encoder):
        with pytest.raises(AssertionError):
            build_zero_shot_classifier(encoder.model, encoder.tokens, [], TEMPLATES)
        with pytest.raises(AssertionError):
            build_zero_shot_classifier(encoder.model, encoder.tokens, CLASSES, [])

    def test_sets_with_the_same_prompts_share_one(self, encoder, monkeypatch):
        built = []
        monkeypatch.setattr(
            zero_shot_module,
            "build_zero_shot_classifier",
            lambda *arguments: built.append(arguments) or build_zero_shot_classifier(*arguments),
        )
        classifiers = Classifiers(encoder, ALONE)
        first = classifiers.get(CLASSES, TEMPLATES)
        assert classifiers.get(list(CLASSES), list(TEMPLATES)) is first
        assert len(built) == 1
        classifiers.get(CLASSES, TEMPLATES[:1])
        assert len(built) == 2

    def test_the_placeholder_alone_is_special(self):
        assert Template("a {} {with} braces")("cat") == "a cat {with} braces"


class TestZeroShot:
    def classify(self, url, encoder, classes=CLASSES):
        weights = Classifiers(encoder, ALONE).get(classes, TEMPLATES)
        return zero_shot(encoder, ALONE, stream_of(url, encoder), weights, "the data")

    def test_it_equals_the_dense_computation(self, url, encoder):
        scores = dense_images(encoder, range(SAMPLES)) @ dense_classifier(encoder, CLASSES)
        right = int((scores.argmax(1) == torch.arange(SAMPLES) % 3).sum())
        found = self.classify(url, encoder)
        assert found == {"top1": right / SAMPLES, "top5": 1.0, "images": SAMPLES, "skipped": 0}

    def test_top_five_of_many_classes(self, url, encoder):
        many = (*CLASSES, *(f"class {i}" for i in range(20)))
        order = (dense_images(encoder, range(SAMPLES)) @ dense_classifier(encoder, many)).argsort(1, descending=True)
        labels = (torch.arange(SAMPLES) % 3).unsqueeze(1)
        found = self.classify(url, encoder, many)
        assert found["top1"] == float((order[:, :1] == labels).sum()) / SAMPLES
        assert found["top5"] == float((order[:, :5] == labels).sum()) / SAMPLES

    def test_a_class_number_without_a_name_is_refused(self, url, encoder):
        with pytest.raises(CorruptError, match="the data has samples without a class number below 2"):
            self.classify(url, encoder, CLASSES[:2])

    def test_samples_without_a_class_are_refused(self, tmp_path, encoder):
        write_dataset(tmp_path / "plain", [4])
        with pytest.raises(CorruptError, match="class"):
            self.classify(str(tmp_path / "plain"), encoder)


class TestEvaluator:
    def test_folder_and_shards_give_the_same_numbers(self, url, tmp_path, encoder):
        write_class_folders(tmp_path / "folder", {name: at for at, name in enumerate("abc")}, per_class=1)
        from_folder = evaluation(0, 1, {"zero_shot": section(None, data=None, folder=str(tmp_path / "folder"))})
        scores = dense_images(encoder, range(3)) @ dense_classifier(encoder, CLASSES)
        right = int((scores.argmax(1) == torch.arange(3)).sum())
        assert from_folder == {"zero_shot": {"top1": right / 3, "top5": 1.0, "images": 3, "skipped": 0}}

    def test_an_undecodable_image_is_left_out_and_counted(self, tmp_path):
        write_class_folders(tmp_path / "folder", {"a": 0, "b": 5, "c": 10})
        (tmp_path / "folder" / "b" / "0006.png").write_bytes(b"no image")
        found = evaluation(0, 1, {"zero_shot": section(None, data=None, folder=str(tmp_path / "folder"))})
        assert (found["zero_shot"]["images"], found["zero_shot"]["skipped"]) == (8, 1)

    def test_named_sets_have_a_level_of_their_own(self, url):
        asked = {"zero_shot": section(url), "zero_shot_sets": {"again": section(url), "third": section(url)}}
        found = evaluation(0, 1, asked)
        assert set(found) == {"zero_shot", "zero_shot_sets"}
        assert found["zero_shot_sets"] == {"again": found["zero_shot"], "third": found["zero_shot"]}

    def test_only_what_is_asked_for_is_run(self, url, encoder):
        evaluator = Evaluator(
            ALONE, EvalSection.model_validate({"zero_shot": section(url), "retrieval": {"data": url}})
        )
        assert evaluator.names == ("zero_shot", "retrieval")
        assert set(evaluator.run(encoder, ["retrieval"])) == {"retrieval"}
        assert evaluator.run(encoder, []) == {}

    def test_chunks_change_nothing(self, url, monkeypatch):
        asked = {"zero_shot": section(url), "retrieval": {"data": url}}
        whole = evaluation(0, 1, asked)
        monkeypatch.setattr(encoder_module, "CHUNK", 3)
        assert evaluation(0, 1, asked)["retrieval"] == pytest.approx(whole["retrieval"], abs=1e-6)

    def test_the_modes_of_modules_come_back_as_they_were(self):
        model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
        model.train()
        model[1].eval()  # a frozen part
        inside = []
        with pytest.raises(ZeroDivisionError), evaluation_mode(model):
            inside.extend(module.training for module in model.modules()) or 1 / 0
        assert inside == [False] * 3
        assert [module.training for module in model.modules()] == [True, True, False]

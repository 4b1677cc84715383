"""From train.loss to an objective: which terms there are, and which teachers are taken."""

import json

import pytest
import torch
from safetensors.torch import save_file

from clip_testkit.objectivework import CONFIGS, CONTEXT, SIZE, VOCABULARY, tiny_batch
from clip_testkit.rankwork import group_of
from clip_trainer.loss import DistillationLoss, Features
from clip_trainer.model import create_model, get_config, get_precision
from clip_trainer.model.config import ClipConfig
from clip_trainer.train.build import build_model
from clip_trainer.train.objective import LossWeights
from clip_trainer.train.objective_build import build_objective, loss_kind, loss_weights
from clip_trainer.train.teacher import build_teacher, check_teacher
from clip_trainer.vision import OPENAI_PREPROCESS, normalize
from clipctl.contract.errors import SpecError
from clipctl.contract.sections import DistillSection, LossSection, ModelSection
from clipctl.contract.spec import RunSpec

MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


def config(name, **changes):
    return ClipConfig.from_dict(CONFIGS[name] | changes, name)


@pytest.fixture
def teacher_folder(tmp_path):
    """A model as OpenCLIP publishes it, with a normalisation of its own."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    preprocess = {"mean": MEAN, "std": STD}
    content = {"model_cfg": CONFIGS["teacher"], "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    model = create_model(config("teacher"), "fp32", 9)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def spec_with(tmp_path, name, **loss):
    """A run whose model is one of the tiny ones."""
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(CONFIGS[name]))
    return RunSpec.model_validate(
        {
            "name": "demo",
            "model": {"name": name, "config": str(path), "precision": "fp32"},
            "data": {"train": "/data"},
            "train": {"global_batch": 7, "micro_batch": 3, "steps": 1, "loss": loss},
            "checkpoint": {"path": str(tmp_path / "runs")},
        }
    )


def terms_of(spec):
    group = group_of(0, 1)
    model = build_model(spec.model, spec.train.loss, 0, group, fresh=True)
    objective = build_objective(spec, model, group, get_precision("fp32"), OPENAI_PREPROCESS)
    return model, {name: term.item() for name, term in objective.backward(tiny_batch((7,))).items()}


def test_auto_is_what_the_model_is():
    assert loss_kind(LossSection(), config("clip")) == "clip"
    assert loss_kind(LossSection(), config("siglip")) == "clip"
    assert loss_kind(LossSection(), config("coca")) == "coca"
    assert loss_kind(LossSection(kind="clip"), config("coca")) == "clip"
    assert loss_kind(LossSection(kind="siglip"), config("clip")) == "siglip"


def test_captions_need_a_model_that_writes_them():
    with pytest.raises(SpecError, match="writes no captions") as caught:
        loss_kind(LossSection(kind="coca"), config("clip"))
    assert "coca_ViT-B-32" in caught.value.hint


def test_weights():
    section = LossSection(contrastive_weight=0.5, caption_weight=3.0)
    assert loss_weights(section, "coca") == LossWeights(0.5, 3.0)
    assert loss_weights(section, "clip") == LossWeights(0.5, 0.0)
    with pytest.raises(SpecError, match="nothing to minimise"):
        loss_weights(LossSection(contrastive_weight=0.0), "clip")
    with pytest.raises(SpecError, match="nothing to minimise"):
        loss_weights(LossSection(contrastive_weight=0.0, caption_weight=0.0), "coca")
    taught = LossSection(contrastive_weight=0.0, distill=DistillSection(model="x", pretrained="y"))
    assert loss_weights(taught, "clip") == LossWeights(0.0, 0.0)


def test_clip(tmp_path):
    model, terms = terms_of(spec_with(tmp_path, "clip"))
    assert terms.keys() == {"contrastive_loss"}
    assert model.logit_bias is None


def test_siglip_brings_its_own_scale_and_bias(tmp_path):
    model, terms = terms_of(spec_with(tmp_path, "clip", kind="siglip"))
    assert terms.keys() == {"contrastive_loss"}
    assert model.logit_scale.exp().item() == pytest.approx(10.0)
    assert model.logit_bias.item() == -10.0
    assert model.logit_bias.grad.abs() > 0


def test_coca_has_two_terms_and_their_weights(tmp_path):
    _, terms = terms_of(spec_with(tmp_path, "coca"))
    _, other = terms_of(spec_with(tmp_path, "coca", contrastive_weight=3.0, caption_weight=0.5))
    assert other == pytest.approx(
        {"contrastive_loss": 3 * terms["contrastive_loss"], "caption_loss": terms["caption_loss"] / 4}, rel=1e-6
    )


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_teacher_is_loaded_and_listened_to(tmp_path, teacher_folder, kind):
    distill = {"model": f"local-dir:{teacher_folder}", "pretrained": str(teacher_folder)}
    spec = spec_with(tmp_path, "clip", kind=kind, distill=distill)
    model, terms = terms_of(spec)
    assert terms.keys() == {"contrastive_loss", "distill_loss"}
    batch = tiny_batch((7,))
    images, tokens = batch.images, batch.tokens
    teacher = create_model(config("teacher"), "fp32", 9)
    with torch.no_grad():
        student = Features(*model(normalize(images, OPENAI_PREPROCESS.mean, OPENAI_PREPROCESS.std), tokens)[:3])
        wanted = Features(*teacher(normalize(images, MEAN, STD), tokens)[:3])
    assert terms["distill_loss"] == pytest.approx(DistillationLoss()(student, wanted).item(), rel=1e-5)
    assert not any(name for name, p in model.named_parameters() if p.grad is None)


def test_a_teacher_never_changes(teacher_folder):
    section = DistillSection(model=f"local-dir:{teacher_folder}", pretrained=str(teacher_folder))
    run = ModelSection(name="x", precision="bf16")
    teacher = build_teacher(section, config("clip"), run, group_of(0, 1))
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.visual.proj.dtype == torch.bfloat16


def test_an_unknown_teacher_is_refused():
    section = DistillSection(model="ViT-B-23", pretrained="laion2b_s34b_b79k")
    with pytest.raises(SpecError, match="ViT-B-23"):
        build_teacher(section, config("clip"), ModelSection(name="x"), group_of(0, 1))


class TestCheckTeacher:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"vision_cfg": {"image_size": 24}}, f"images of 24x24 pixels, the student {SIZE}x{SIZE}"),
            ({"text_cfg": {"context_length": 24}}, f"24 tokens of text, the student {CONTEXT}"),
            ({"text_cfg": {"hf_tokenizer_name": "bert"}}, "tokens of bert, the student those of CLIP's tokenizer"),
            ({"text_cfg": {"vocab_size": 9}}, f"9 different tokens, the student {VOCABULARY}"),
        ],
    )
    def test_it_must_see_what_the_student_sees(self, changes, words):
        merged = {section: CONFIGS["teacher"][section] | change for section, change in changes.items()}
        with pytest.raises(SpecError) as caught:
            check_teacher("big", config("teacher", **merged), config("clip"))
        assert f"the teacher big takes {words};" in caught.value.problem
        assert "model.image_size" in caught.value.hint

    @pytest.mark.parametrize(
        ("teacher", "student"),
        [
            ("ViT-L-14", "ViT-B-32"),
            ("ViT-SO400M-16-SigLIP2-256", "ViT-B-16-SigLIP2-256"),
            ("ViT-SO400M-16-SigLIP-i18n-256", "ViT-B-16-SigLIP-i18n-256"),
        ],
    )
    def test_published_pairs_that_fit(self, teacher, student):
        check_teacher(teacher, get_config(teacher), get_config(student))

    @pytest.mark.parametrize(
        ("teacher", "student"),
        [
            ("ViT-B-16-SigLIP", "ViT-B-16"),
            ("ViT-L-14-336", "ViT-L-14"),
            ("ViT-B-16-SigLIP2-256", "ViT-B-16-SigLIP-256"),
        ],
    )
    def test_published_pairs_that_do_not(self, teacher, student):
        with pytest.raises(SpecError, match="must see what the student sees"):
            check_teacher(teacher, get_config(teacher), get_config(student))

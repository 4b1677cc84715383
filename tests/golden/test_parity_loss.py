"""ClipLoss, SigLipLoss, CoCaLoss, DistillClipLoss and create_loss against OpenCLIP's, alone and on 2 to 4 ranks."""

import inspect
from types import SimpleNamespace

import pytest
import torch

from clip_testkit.oracleloss import Setting, both, call, inputs, oracle
from clip_testkit.ranks import run_ranks
from clip_trainer.loss import openclip as ours

pytestmark = pytest.mark.parity
SEED = 5
PAIR = ("image_features", "text_features", "logit_scale")
COCA = ("image_features", "text_features", "logits", "labels", "logit_scale")
TEACHER = ("dist_image_features", "dist_text_features", "dist_logit_scale")
WEIGHTS = {"caption_loss_weight": 2.0, "clip_loss_weight": 0.5}
CLASSES = {
    "ClipLoss": Setting("ClipLoss", PAIR, {}),
    "ClipLoss with bias": Setting("ClipLoss", (*PAIR, "logit_bias"), {}),
    "CoCaLoss": Setting("CoCaLoss", COCA, WEIGHTS),
    "CoCaLoss, captions only": Setting("CoCaLoss", COCA, {**WEIGHTS, "clip_loss_weight": 0}),
    "CoCaLoss, other padding": Setting("CoCaLoss", COCA, {**WEIGHTS, "pad_id": 3}),
    "DistillClipLoss": Setting("DistillClipLoss", PAIR + TEACHER, {}),
    "SigLipLoss": Setting("SigLipLoss", (*PAIR, "logit_bias"), {}),
}
EXACT = {"gather_with_grad": True}
DISTRIBUTED = [
    *(
        Setting(cls, CLASSES[cls].inputs, {**CLASSES[cls].arguments, **EXACT, "local_loss": local})
        for cls in ("ClipLoss", "CoCaLoss", "DistillClipLoss")
        for local in (False, True)
    ),
    *(
        Setting("SigLipLoss", CLASSES["SigLipLoss"].inputs, {"dist_impl": dist_impl})
        for dist_impl in ("bidir", "shift", "reduce", "gather")
    ),
]


def assert_equal(seen, expected, tolerance=1e-12):
    assert seen.terms == pytest.approx(expected.terms, rel=tolerance, abs=1e-14)
    assert seen.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        actual, wanted = (torch.tensor(g, dtype=torch.float64) for g in (seen.gradients[name], gradient))
        torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=1e-13, msg=name)


@pytest.mark.parametrize("name", CLASSES)
def test_values_and_gradients_in_one_process(name):
    setting = CLASSES[name]
    expected = call(getattr(oracle(), setting.cls)(**setting.arguments), setting, inputs(SEED))
    seen = call(getattr(ours, setting.cls)(**setting.arguments), setting, inputs(SEED))
    assert_equal(seen, expected)


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_returned_without_output_dict(name):
    setting = CLASSES[name]
    given = {key: tensor.detach() for key, tensor in inputs(SEED).items()}

    def returned(module):
        return getattr(module, setting.cls)(**setting.arguments)(*(given[key] for key in setting.inputs))

    actual, expected = returned(ours), returned(oracle())
    assert type(actual) is type(expected)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def mean(parts):
    """What averaging over ranks makes of terms and of the gradients of scale and bias."""
    terms = {key: sum(part.terms[key] for part in parts) / len(parts) for key in parts[0].terms}
    numbers = [key for key in ("logit_scale", "logit_bias") if key in parts[0].gradients]
    return terms, {key: sum(part.gradients[key] for part in parts) / len(parts) for key in numbers}


def rows(parts, name):
    return torch.tensor([row for part in parts for row in part.gradients[name]], dtype=torch.float64) / len(parts)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_on_several_ranks(world, tmp_path):
    """Each rank's values and row gradients are OpenCLIP's; so is the mean of the gradients of scale and bias."""
    by_rank = run_ranks(world, tmp_path, both, DISTRIBUTED, SEED, "even")
    for index, setting in enumerate(DISTRIBUTED):
        for expected, seen in (part[index] for part in by_rank):
            numbers = {
                key: expected.gradients[key] for key in ("logit_scale", "logit_bias") if key in expected.gradients
            }
            assert_equal(seen._replace(gradients=seen.gradients | numbers), expected)
        wanted, actual = (mean([part[index][side] for part in by_rank]) for side in (0, 1))
        assert actual[1] == pytest.approx(wanted[1], rel=1e-12, abs=1e-13), setting


@pytest.mark.parametrize("world", [2, 3])
def test_the_deliberate_differences_on_several_ranks(world, tmp_path):
    """Without gather_with_grad, and for captions of uneven length, ours average to the loss of the full batch."""
    settings = [Setting("ClipLoss", PAIR, {"local_loss": local, "gather_with_grad": False}) for local in (False, True)]
    settings.append(Setting("CoCaLoss", COCA, WEIGHTS))
    by_rank = run_ranks(world, tmp_path, both, settings, SEED, "uneven")
    for index, setting in enumerate(settings):
        single = setting._replace(arguments={k: v for k, v in setting.arguments.items() if "loss_weight" in k})
        expected = call(getattr(oracle(), setting.cls)(**single.arguments), single, inputs(SEED))
        theirs, seen = ([part[index][side] for part in by_rank] for side in (0, 1))
        terms, numbers = mean(seen)
        assert terms == pytest.approx(expected.terms, rel=1e-12)
        assert numbers["logit_scale"] == pytest.approx(expected.gradients["logit_scale"], rel=1e-12)
        features = [name for name in ("image_features", "logits") if name in expected.gradients]
        for name in features:
            wanted = torch.tensor(expected.gradients[name], dtype=torch.float64)
            torch.testing.assert_close(rows(seen, name), wanted, rtol=1e-12, atol=1e-13)
        assert not all(
            torch.allclose(rows(theirs, name), torch.tensor(expected.gradients[name]).double(), rtol=1e-3)
            for name in features
        ), "OpenCLIP does this too: not a difference any more"


@pytest.mark.parametrize("name", ["ClipLoss", "CoCaLoss", "DistillClipLoss", "SigLipLoss"])
def test_arguments_have_the_same_names_order_and_defaults(name):
    for method in ("__init__", "forward"):
        wanted = inspect.signature(getattr(getattr(oracle(), name), method)).parameters.values()
        actual = inspect.signature(getattr(getattr(ours, name), method)).parameters.values()
        positional = [(p.name, p.default) for p in actual if p.kind is not p.KEYWORD_ONLY]
        assert positional == [(p.name, p.default) for p in wanted]


def test_logits_and_labels_are_the_same():
    given = inputs(SEED)
    for name, extra in (("ClipLoss", {}), ("SigLipLoss", {"logit_bias": given["logit_bias"]})):
        arguments = {key: given[key] for key in PAIR} | extra
        actual, wanted = (getattr(module, name)().get_logits(**arguments) for module in (ours, oracle()))
        torch.testing.assert_close(actual, wanted, rtol=1e-13, atol=1e-13)
    device = torch.device("cpu")
    for options in ({}, {"world_size": 3, "rank": 2, "local_loss": True}):
        actual, wanted = (module.ClipLoss(**options).get_ground_truth(device, 4) for module in (ours, oracle()))
        assert torch.equal(actual, wanted)
    for negative in (False, True):
        labels = [m.SigLipLoss().get_ground_truth(device, torch.float32, 4, negative) for m in (ours, oracle())]
        assert torch.equal(*labels)


BASE = {
    "distill": False,
    "siglip": False,
    "model": "ViT-B-32",
    "local_loss": True,
    "gather_with_grad": True,
    "rank": 1,
    "world_size": 3,
    "horovod": False,
    "loss_dist_impl": "gather",
    "coca_caption_loss_weight": 3.0,
    "coca_contrastive_loss_weight": 0.25,
}


@pytest.mark.parametrize(
    "changed", [{}, {"siglip": True}, {"model": "coca_ViT-B-32", "siglip": True}, {"distill": True, "model": "coca"}]
)
def test_create_loss(open_clip, changed):
    from open_clip.factory import create_loss

    args = SimpleNamespace(**BASE | changed)
    actual, expected = ours.create_loss(args), create_loss(args)
    assert type(actual).__name__ == type(expected).__name__
    public = {name: value for name, value in vars(actual).items() if name in vars(expected) and name[0] != "_"}
    assert {"rank", "world_size", "local_loss" if isinstance(actual, ours.ClipLoss) else "dist_impl"} <= public.keys()
    assert public == {name: vars(expected)[name] for name in public}

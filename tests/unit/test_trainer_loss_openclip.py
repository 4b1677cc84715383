"""OpenCLIP's loss classes without OpenCLIP: values by hand, and what they refuse. Parity is in test_parity_loss.py."""

import inspect
import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from clip_testkit.contrastive import dense, dense_distillation, dense_sigmoid, features, teacher_features
from clip_testkit.ranks import run_ranks
from clip_trainer.loss import Features
from clip_trainer.loss.openclip import ClipLoss, CoCaLoss, DistillClipLoss, SigLipLoss, create_loss

ROWS = 6


@pytest.fixture
def pair():
    return features(ROWS, 5, 3)


def test_clip_loss_is_the_dense_one(pair):
    torch.testing.assert_close(ClipLoss()(*pair), dense(*pair), rtol=1e-13, atol=0)
    assert ClipLoss()(*pair, output_dict=True) == {"contrastive_loss": ClipLoss()(*pair)}


def test_siglip_loss_is_the_dense_one(pair):
    bias = torch.tensor(-3.0, dtype=torch.float64)
    torch.testing.assert_close(SigLipLoss()(*pair, bias), dense_sigmoid(*pair, bias), rtol=1e-13, atol=0)
    torch.testing.assert_close(SigLipLoss()(*pair, None), dense_sigmoid(*pair, None), rtol=1e-13, atol=0)


def test_distill_loss_is_the_dense_one(pair):
    teacher = teacher_features(ROWS, 3)
    contrastive, distill = DistillClipLoss()(*pair, *teacher[:3])
    torch.testing.assert_close(contrastive, dense(*pair), rtol=1e-13, atol=0)
    torch.testing.assert_close(distill, dense_distillation(Features(*pair), teacher), rtol=1e-12, atol=0)


def test_distillation_takes_the_biases_of_siglip_models(pair):
    """OpenCLIP's class raises TypeError for a student that returns a bias."""
    teacher = teacher_features(ROWS, 3)
    named = {
        "dist_image_features": teacher.image,
        "dist_text_features": teacher.text,
        "dist_logit_scale": teacher.scale,
    }
    biases = {"logit_bias": torch.tensor(-10.0), "dist_logit_bias": torch.tensor(-9.0)}
    assert DistillClipLoss()(*pair, **named, **biases) == DistillClipLoss()(*pair, **named)


def test_coca_skips_what_has_no_weight(pair):
    logits = torch.randn(ROWS, 4, 9, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(1, 9, (ROWS, 4))
    skipped, caption = CoCaLoss(2.0, 0.0)(pair[0], pair[1], logits, labels, pair[2])
    assert skipped.item() == 0
    assert not skipped.requires_grad
    contrastive, same = CoCaLoss(2.0, 0.5)(pair[0], pair[1], logits, labels, pair[2])
    torch.testing.assert_close(contrastive, dense(*pair) / 2, rtol=1e-13, atol=0)
    assert same == caption
    named = CoCaLoss(2.0, 0.5)(
        pair[0], pair[1], logits, labels, pair[2], output_dict=True, logit_bias=torch.tensor(-1.0)
    )
    assert named == {"contrastive_loss": contrastive, "caption_loss": caption}


@pytest.mark.parametrize("scale", [14.0, torch.tensor([14.0], dtype=torch.float64)], ids=["number", "shape one"])
def test_the_scale_may_be_a_number_or_boxed(pair, scale):
    image, text, _ = pair
    expected = dense(image, text, torch.tensor(14.0, dtype=torch.float64))
    torch.testing.assert_close(ClipLoss()(image, text, scale), expected, rtol=1e-13, atol=0)
    assert ClipLoss()(image, text, scale).ndim == 0
    assert SigLipLoss()(image, text, scale, -2.0).ndim == 0


def test_half_precision_gives_a_loss_in_float32(pair):
    image, text, scale = (tensor.detach().bfloat16() for tensor in pair)
    assert ClipLoss()(image, text, scale).dtype == torch.float32
    assert SigLipLoss()(image, text, scale, None).dtype == torch.float32


def test_they_are_modules_without_parameters():
    for loss in (ClipLoss(), SigLipLoss(), CoCaLoss(1.0, 1.0), DistillClipLoss()):
        assert isinstance(loss, torch.nn.Module)
        assert not loss.state_dict()
        assert type(pickle.loads(pickle.dumps(loss.train()))) is type(loss)


def test_one_rank_stays_alone_in_a_group(tmp_path):
    """world_size 1 means this process, whatever group there is: as in OpenCLIP."""
    losses = run_ranks(2, tmp_path, losses_alone)
    assert losses[0] == pytest.approx(losses[1][::-1], rel=1e-12)
    assert losses[0][0] != pytest.approx(losses[0][1], rel=1e-3)


def losses_alone(rank):
    """The loss of this rank's own features, then of the other rank's."""
    dist.barrier()  # a rank that leaves before the other has arrived would break its connection
    return [float(ClipLoss()(*(t.detach() for t in features(4, 5, seed)))) for seed in (rank, 1 - rank)]


def test_a_rank_that_is_not_the_groups_is_refused(tmp_path):
    messages = run_ranks(2, tmp_path, wrong_rank)
    assert messages[0] == "the loss is for rank 1 of 2, but this process is rank 0 of 2"
    assert messages[1] == "the loss is for rank 0 of 2, but this process is rank 1 of 2"


def wrong_rank(rank):
    dist.barrier()
    try:
        ClipLoss(rank=1 - rank, world_size=2)(*(tensor.detach() for tensor in features(4, 5, 0)))
    except ValueError as error:
        return str(error)
    return ""


def test_several_ranks_need_a_group(pair):
    with pytest.raises(ValueError, match="is for rank 1 of 2, but this process is rank 0 of 1"):
        ClipLoss(rank=1, world_size=2)(*pair)


def test_gathered_logits_carry_gradients_of_all_ranks(tmp_path):
    for seen, expected in run_ranks(2, tmp_path, gradients_of_gathered_logits):
        torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def gradients_of_gathered_logits(rank):
    """Gradient of the sum over ranks of what each makes of its logits, and the same in one process."""
    weight = torch.arange(36, dtype=torch.float64).reshape(6, 6)
    image, text, scale = features(6, 5, 2)
    own = slice(rank * 3, rank * 3 + 3)
    parts = [tensor[own].detach().requires_grad_() for tensor in (image, text)]
    by_image, by_text = ClipLoss(rank=rank, world_size=2).get_logits(*parts, scale)
    (by_image * weight * (rank + 1) + by_text).sum().backward()
    logits = scale * image @ text.T
    (logits * weight * 3 + 2 * logits.T).sum().backward()
    return [part.grad.tolist() for part in parts], [tensor.grad[own].tolist() for tensor in (image, text)]


@pytest.mark.parametrize("loss", [ClipLoss, DistillClipLoss])
def test_horovod_is_refused(loss):
    with pytest.raises(ValueError, match="Horovod is not supported"):
        loss(use_horovod=True)
    with pytest.raises(ValueError, match="Horovod is not supported"):
        create_loss(SimpleNamespace(horovod=True))


def test_an_unknown_exchange_is_refused_as_in_openclip():
    with pytest.raises(AssertionError):
        SigLipLoss(dist_impl="ring")
    assert SigLipLoss().dist_impl == "bidir"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ClipLoss),
        ({"siglip": True}, SigLipLoss),
        ({"model": "CoCa_ViT-B-32"}, CoCaLoss),
        ({"model": "coca_ViT-B-32", "siglip": True}, CoCaLoss),
        ({"model": "coca_ViT-B-32", "siglip": True, "distill": True}, DistillClipLoss),
    ],
)
def test_create_loss_chooses_by_openclips_order(changes, expected):
    args = {
        "distill": False,
        "siglip": False,
        "model": "ViT-B-32",
        "local_loss": True,
        "gather_with_grad": False,
        "rank": 0,
        "world_size": 1,
        "loss_dist_impl": "shift",
        "coca_caption_loss_weight": 2.0,
        "coca_contrastive_loss_weight": 1.0,
    }
    loss = create_loss(SimpleNamespace(**args | changes))
    assert type(loss) is expected
    wanted = {name: value for name, value in (args | changes).items() if name in ("local_loss", "rank", "world_size")}
    assert {name: getattr(loss, name, wanted[name]) for name in wanted} == wanted


def test_additions_are_keyword_only():
    """Further arguments of ours can never be taken for one of OpenCLIP's."""
    for loss in (CoCaLoss, DistillClipLoss):
        added = [p for p in inspect.signature(loss.forward).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert {p.name for p in added} <= {"logit_bias", "dist_logit_bias"}

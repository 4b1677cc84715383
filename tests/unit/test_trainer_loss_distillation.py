"""The distillation loss in tiles equals the dense one. For several ranks see test_trainer_loss_ranks.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.contrastive import dense_distillation, features, teacher_features
from clip_trainer.loss import ContrastiveLoss, DistillationLoss, Features


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 33), tile=st.integers(1, 40), seed=st.integers(0, 1000))
def test_tiled_equals_dense_for_any_tile(rows, tile, seed):
    student, teacher = Features(*features(rows, 5, seed)), teacher_features(rows, seed)
    out, expected = DistillationLoss(tile)(student, teacher), dense_distillation(student, teacher)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
    wanted = torch.autograd.grad(expected, student[:3])
    for actual, gradient in zip(torch.autograd.grad(out, student[:3]), wanted, strict=True):
        torch.testing.assert_close(actual, gradient, rtol=1e-12, atol=1e-12)


def test_backward_agrees_with_finite_differences():
    teacher = teacher_features(7, 3)
    assert torch.autograd.gradcheck(lambda *own: DistillationLoss(3)(Features(*own), teacher), features(7, 4, 3))


def test_a_student_that_agrees_has_no_gradient():
    student = Features(*features(8, 5, 2))
    same = Features(*(tensor.detach() for tensor in student[:3]))
    out = DistillationLoss(3)(student, same)
    assert out.item() > 0  # the entropy of the teacher
    for gradient in torch.autograd.grad(out, student[:3]):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_a_certain_teacher_makes_it_the_contrastive_loss():
    student = Features(*features(8, 5, 2))
    certain = Features(torch.eye(8).double(), torch.eye(8).double(), torch.tensor(1e4).double())
    torch.testing.assert_close(
        DistillationLoss(3)(student, certain), ContrastiveLoss(3)(*student[:3]), rtol=1e-13, atol=0
    )


def test_biases_cancel():
    image, text, scale = features(6, 4, 1)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    teacher = teacher_features(6, 1)
    out = DistillationLoss(4)(Features(image, text, scale, bias), teacher._replace(bias=torch.tensor(3.0)))
    assert out == DistillationLoss(4)(Features(image, text, scale), teacher)
    assert torch.autograd.grad(out, bias)[0].item() == 0.0


def test_no_gradient_reaches_the_teacher():
    student, teacher = Features(*features(6, 4, 1)), Features(*features(6, 3, 2))
    DistillationLoss(4)(student, teacher).backward()
    assert student.image.grad is not None
    assert teacher.image.grad is teacher.text.grad is teacher.scale.grad is None


def test_confident_students_and_teachers_do_not_overflow():
    student, teacher = Features(*features(9, 4, 2)), teacher_features(9, 2)
    sure = student._replace(scale=torch.tensor(5000.0, dtype=torch.float64, requires_grad=True))
    loud = teacher._replace(scale=torch.tensor(5000.0, dtype=torch.float64))
    out = DistillationLoss(4)(sure, loud)
    torch.testing.assert_close(out, dense_distillation(sure, loud), rtol=1e-12, atol=0)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out, sure[:3]))


def test_a_teacher_of_lower_precision_is_widened():
    image, text, scale = (tensor.detach() for tensor in features(9, 4, 2))
    teacher = teacher_features(9, 2)
    halved = Features(teacher.image.bfloat16(), teacher.text.bfloat16(), teacher.scale.float())
    out = DistillationLoss(4)(Features(image, text, scale), halved)
    wide = Features(halved.image.double(), halved.text.double(), teacher.scale)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, dense_distillation(Features(image, text, scale), wide), rtol=1e-5, atol=0)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="tile"):
        DistillationLoss(0)
    student = Features(*features(4, 4, 0))
    with pytest.raises(ValueError, match="not of the student's 4 pairs"):
        DistillationLoss()(student, teacher_features(5, 0))

import pytest
import torch
from torch.nn import functional as F

from annotations_schema.errors import UsageError
from training.losses.adversarial import (
    discriminator_loss,
    generator_loss,
    lecam_anchors,
    lecam_penalty,
)


def test_generator_loss_falls_as_its_images_pass_for_real():
    logits = torch.tensor([0.5, -2.0], requires_grad=True)

    loss = generator_loss(logits)
    loss.backward()

    assert loss.item() == 0.75
    assert logits.grad.tolist() == [-0.5, -0.5]


def test_non_saturating_loss_is_the_cross_entropy_with_real_as_target():
    logits = torch.tensor([0.5, -2.0, 4.0], requires_grad=True)

    loss = generator_loss(logits, "non_saturating")
    loss.backward()

    expected = F.binary_cross_entropy_with_logits(logits, torch.ones(3))
    assert loss.item() == pytest.approx(expected.item())
    # Descent raises every logit, and most where the patch does not pass yet.
    assert logits.grad.argsort().tolist() == [1, 0, 2]
    assert (logits.grad < 0).all()


def test_unknown_generator_loss_is_refused():
    with pytest.raises(UsageError, match=r"'wgan' must be hinge or non_saturating"):
        generator_loss(torch.zeros(1), "wgan")


def test_discriminator_loss_by_hand():
    loss = discriminator_loss(torch.tensor([0.0, 2.0]), torch.tensor([-3.0, 1.0]))

    # Real: hinges 1 and 0. Made: hinges 0 and 2.
    assert loss.item() == (0.5 + 1.0) / 2


def test_discriminator_raises_real_and_lowers_made_logits_inside_the_margin():
    real = torch.tensor([0.0, 0.9, 1.5], requires_grad=True)
    made = torch.tensor([0.0, -0.9, -1.5], requires_grad=True)

    discriminator_loss(real, made).backward()

    # Descent goes against the gradient; beyond the margin nothing is left to learn.
    assert real.grad.sign().tolist() == [-1, -1, 0]
    assert made.grad.sign().tolist() == [1, 1, 0]


def test_narrow_logits_are_averaged_in_float32():
    logits = torch.ones(3, dtype=torch.bfloat16)

    assert generator_loss(logits).dtype == torch.float32
    assert discriminator_loss(logits, logits).dtype == torch.float32


def test_lecam_penalty_by_hand():
    real, made = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])

    # Real above the made anchor -0.5: 1.5 and 0. Made below the real anchor 1: 1 and 0.
    loss = lecam_penalty(real, made, torch.tensor([1.0, -0.5]))

    assert loss.item() == pytest.approx((1.5**2 + 1.0) / 2)


def test_lecam_draws_logits_of_each_kind_towards_the_other():
    real, made = torch.tensor([2.0], requires_grad=True), torch.tensor([-2.0], requires_grad=True)

    lecam_penalty(real, made, torch.tensor([1.0, -1.0])).backward()

    # Descent goes against the gradient.
    assert real.grad.item() > 0
    assert made.grad.item() < 0


def test_lecam_anchors_follow_the_mean_logits_and_leave_the_old_ones_alone():
    anchors = torch.zeros(2)
    terms = {"logits_real": torch.tensor(1.0), "logits_fake": torch.tensor(-2.0)}

    moved = lecam_anchors(anchors, terms, 0.75)
    for _ in range(100):
        moved = lecam_anchors(moved, terms, 0.75)

    assert lecam_anchors(anchors, terms, 0.75).tolist() == [0.25, -0.5]
    assert anchors.tolist() == [0.0, 0.0]
    assert moved.tolist() == pytest.approx([1.0, -2.0])

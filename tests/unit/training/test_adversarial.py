import torch

from training.losses.adversarial import discriminator_loss, generator_loss


def test_generator_loss_falls_as_its_images_pass_for_real():
    logits = torch.tensor([0.5, -2.0], requires_grad=True)

    loss = generator_loss(logits)
    loss.backward()

    assert loss.item() == 0.75
    assert logits.grad.tolist() == [-0.5, -0.5]


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

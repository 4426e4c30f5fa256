"""Hinge losses of generator and discriminator on PatchGAN logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from training.models.precision import at_least_float32


def generator_loss(logits_fake: Tensor) -> Tensor:
    """-mean(D(x_hat)): falls as the discriminator takes reconstructions for real; 0-d."""
    return -at_least_float32(logits_fake).mean()


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """(mean(relu(1 - D(x))) + mean(relu(1 + D(x_hat)))) / 2; 0-d, at least 0.

    Its gradient raises logits of real patches below 1 and lowers logits of made patches above -1.
    """
    real, fake = at_least_float32(logits_real), at_least_float32(logits_fake)
    return (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()) / 2

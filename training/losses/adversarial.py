"""Losses of generator and discriminator on PatchGAN logits, and LeCam's regulariser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from annotations_schema.errors import UsageError
from training.models.precision import at_least_float32

GeneratorLoss = Literal["hinge", "non_saturating"]


def generator_loss(logits_fake: Tensor, kind: GeneratorLoss = "hinge") -> Tensor:
    """Falls as the discriminator takes reconstructions for real; 0-d.

    Args:
        logits_fake: D(x_hat), any shape.
        kind: "hinge": -mean(D(x_hat)), which pushes every patch alike. "non_saturating":
            mean(softplus(-D(x_hat))), which pushes less where a patch passes already.
    """
    logits = at_least_float32(logits_fake)
    if kind == "hinge":
        return -logits.mean()
    if kind == "non_saturating":
        return F.softplus(-logits).mean()
    raise UsageError(f"generator loss {kind!r} must be hinge or non_saturating")


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """(mean(relu(1 - D(x))) + mean(relu(1 + D(x_hat)))) / 2; 0-d, at least 0.

    Its gradient raises logits of real patches below 1 and lowers logits of made patches above -1.
    The hinge is no setting: every peer that was read trains its discriminator with it.
    """
    real, fake = at_least_float32(logits_real), at_least_float32(logits_fake)
    return (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()) / 2


def lecam_penalty(logits_real: Tensor, logits_fake: Tensor, anchors: Tensor) -> Tensor:
    """mean(relu(D(x) - a_fake)^2) + mean(relu(a_real - D(x_hat))^2); 0-d, at least 0.

    Draws real and made logits towards the moving mean of the other kind, so that a discriminator
    with little data does not grow sure of itself (LeCam, Tseng et al. 2021, equation 6, with the
    one-sided squares of its authors' code, for which the published weights were chosen).

    Args:
        logits_real: D(x).
        logits_fake: D(x_hat).
        anchors: (2,) float32, moving mean logits of real and made images, without graph.
    """
    real, fake = at_least_float32(logits_real), at_least_float32(logits_fake)
    above, below = F.relu(real - anchors[1]), F.relu(anchors[0] - fake)
    return above.square().mean() + below.square().mean()


def lecam_anchors(anchors: Tensor, terms: Mapping[str, Tensor], decay: float) -> Tensor:
    """The moving mean logits after an optimizer step; (2,) float32, a new tensor.

    Args:
        anchors: (2,) float32, real and made, before it; zeros at the start of a training.
        terms: the step's means over all its micro batches and ranks; of these `logits_real` and
            `logits_fake` count.
        decay: share of the old anchors, [0, 1).
    """
    seen = torch.stack([terms["logits_real"], terms["logits_fake"]]).to(anchors)
    return anchors.lerp(seen, 1.0 - decay)

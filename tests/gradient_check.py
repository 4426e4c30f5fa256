"""Gradients of frozen networks against finite differences."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def directional_error(function, x, step=1e-5):
    """Relative difference of autograd to a central difference of a random scalar, float64.

    The direction is half gradient, half random: along the gradient alone a wrong gradient that is
    too short in other directions would pass, along noise alone the derivative is nearly zero. The
    step is far below the distance to most kinks of ReLUs.
    """
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(f.shape, generator=random).to(f) for f in function(x)]

    def scalar(at):
        return sum((w * f).sum() for w, f in zip(weights, function(at), strict=True))

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scalar(leaf), leaf)
    noise = torch.randn(x.shape, generator=random).to(x)
    direction = F.normalize(gradient.flatten(), dim=0) + F.normalize(noise.flatten(), dim=0)
    direction = direction.reshape(x.shape)
    with torch.no_grad():
        ahead, behind = scalar(x + step * direction), scalar(x - step * direction)
    expected = (gradient * direction).sum()
    return float(abs((ahead - behind) / (2 * step) - expected) / abs(expected))

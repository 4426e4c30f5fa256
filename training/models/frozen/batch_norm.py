"""Frozen batch norms as what they are: a scale and a shift per channel, inside convolutions.

Fewer kernels and no saved activations; and torch's own batch norm returns a wrong input gradient on
the CPU (2.13 to 2.15), silently, for (N, C, 1, W) when the gradient arrives through a permute.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScaleShift(nn.Module):
    """x * scale + shift for each channel of (N, C, ...)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        """Of (C,) each."""
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...), of the same shape."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * self.scale.reshape(shape) + self.shift.reshape(shape)


@torch.no_grad()
def fold_batch_norm(module: nn.Module) -> None:
    """Replaces, in place, every batch norm by what it does in evaluation mode.

    One that is registered right behind a convolution or linear layer of the same parent normalises
    that layer's output, by the order in which networks here register their layers, and goes into
    its weights. Any other, such as one ahead of a padded convolution, becomes a `ScaleShift`.
    """
    before: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            scale, shift = _affine(child)
            if isinstance(before, (nn.Conv2d, nn.Linear)):
                _hold(before, scale, shift)
                setattr(module, name, nn.Identity())
            else:
                dtype = child.weight.dtype
                setattr(module, name, ScaleShift(scale.to(dtype), shift.to(dtype)))
        else:
            fold_batch_norm(child)
        before = child


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _hold(layer: nn.Conv2d | nn.Linear, scale: Tensor, shift: Tensor) -> None:
    weight = layer.weight.double()
    if layer.bias is not None:
        shift = shift + layer.bias.double() * scale
    weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype))
    layer.bias = nn.Parameter(shift.to(layer.weight.dtype))

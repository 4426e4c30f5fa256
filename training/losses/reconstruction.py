"""Pixel loss between an image and its reconstruction."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from annotations_schema.errors import UsageError

ReconstructionNorm = Literal["l1", "l2"]


def reconstruction_loss(x: Tensor, x_hat: Tensor, norm: ReconstructionNorm) -> Tensor:
    """Mean over all elements of |x_hat - x| ("l1") or its square ("l2"); 0-d.

    Args:
        x: (B, 3, H, W) in [-1, 1].
        x_hat: the same shape.
        norm: "l1" or "l2"; the paper leaves it open.
    """
    if norm == "l1":
        return F.l1_loss(x_hat, x)
    if norm == "l2":
        return F.mse_loss(x_hat, x)
    raise UsageError(f"reconstruction norm {norm!r} must be l1 or l2")

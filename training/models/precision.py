"""Full precision where mixed precision would change a result."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x, widened to float32 where it is narrower."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

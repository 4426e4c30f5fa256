"""How much each region counts among those of its kind."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

RegionWeighting = Literal["area", "equal"]
"""area: a region weighs its share of the image's area (section 3.2.1 of the paper). equal: the
regions of a micro batch weigh the same, and together what they would by area, so that the two
differ in nothing but who gets how much."""


def region_weights(area_weight: Tensor, weighting: RegionWeighting) -> Tensor:
    """Weights (R,) from area fractions (R,); 0 stays 0, since such a region is none.

    Waits for no device.
    """
    if weighting == "area":
        return area_weight
    is_used = area_weight > 0
    share = area_weight.sum() / is_used.sum().clamp(min=1)
    return torch.where(is_used, share, 0.0)

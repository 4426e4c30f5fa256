"""The numbers of a training: their means between two lines, their groups on pages and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

TIMING_KEYS = ("images_per_s", "data_wait_share", "memory_gib")
"""Keys of a metrics line that differ between two equal runs."""

METRIC_GROUPS: Mapping[str, tuple[str, ...]] = {
    "loss": (
        "total", "reconstruction", "perceptual", "commitment", "adversarial", "text", "face",
        "global_text",
        "discriminator",
    ),
    "gradient norm": ("gradient_norm", "discriminator_gradient_norm"),
    "codebook": ("codebook_usage", "codebook_perplexity"),
    "logits": ("logits_real", "logits_fake"),
    "speed": TIMING_KEYS,
}  # fmt: skip
"""What is watched together; a metric of no group is in "other"."""


def group_of(metric: str) -> str:
    """The group of a metric."""
    return next((group for group, names in METRIC_GROUPS.items() if metric in names), "other")


class MetricWindow:
    """Means of scalars since the last reset; sums stay on the device, so adding never waits."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Add one step's scalars: 0-d tensors, or plain numbers."""
        for name, value in values.items():
            scalar = torch.as_tensor(value, dtype=torch.float64).detach()
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The mean of each scalar over the steps that had it; here the host waits."""
        return {name: total.item() / self._counts[name] for name, total in self._sums.items()}

    def reset(self) -> None:
        """Forget everything."""
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts, so that a resume inside a window ends it with the same line."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

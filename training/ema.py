"""The averaged copy of a tokenizer's weights, the one that is evaluated and published."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class WeightEma:
    """An exponential moving average of a module's parameters.

    Names in `copied` (prefixes) and all buffers follow the module exactly: the codebook is a moving
    average already, and a mean of a code before and after its restart would be neither.

    Args:
        module: what is averaged; the average starts as a copy of it.
        decay: per update, in [0, 1). Update n uses min(decay, (1 + n) / (10 + n)), so that a short
            run is not an average of its own beginning.
        copied: prefixes of names that are copied.
    """

    def __init__(self, module: nn.Module, decay: float, copied: tuple[str, ...] = ()) -> None:
        self.module: nn.Module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.num_updates = 0
        self._copied = copied

    @torch.no_grad()
    def update(self, module: nn.Module, gate: Tensor | None = None) -> None:
        """Move the average towards the module's present weights.

        Args:
            module: of the same shape.
            gate: 0-d bool on its device; False leaves the average as it is, without the host
                having to know.
        """
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        present = dict(module.named_parameters())
        for name, parameter in self.module.named_parameters():
            if name.startswith(self._copied) and self._copied:
                parameter.copy_(present[name])
            else:
                averaged.append(parameter)
                current.append(present[name].detach())
        # Few calls for all tensors: a Python loop would cost two kernel launches for each.
        if gate is None:
            torch._foreach_lerp_(averaged, current, 1.0 - decay)
        else:
            gaps = torch._foreach_sub(current, averaged)
            torch._foreach_mul_(gaps, gate * (1.0 - decay))
            torch._foreach_add_(averaged, gaps)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """Averaged weights, and the number of updates that decides the next decay."""
        return {"module": self.module.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        weights: Mapping[str, Tensor] = state["module"]
        self.module.load_state_dict(weights)
        self.num_updates = int(state["num_updates"])

"""Checkpoints of frozen networks, as their projects save them, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


def randomise_norms(net: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms as after a training: nothing about them is one or zero any more."""
    random = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            size = module.weight.shape
            module.weight.data = torch.empty(size).uniform_(0.5, 1.5, generator=random)
            module.bias.data = 0.3 * torch.randn(size, generator=random)
            module.running_mean = 0.3 * torch.randn(size, generator=random)
            module.running_var = torch.empty(size).uniform_(0.3, 2.0, generator=random)
        if isinstance(module, nn.PReLU):
            size = module.weight.shape
            module.weight.data = torch.empty(size).uniform_(-0.2, 0.6, generator=random)
    return net.eval()


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The state with a prefix on every name."""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def saved(path: Path, content: object) -> Path:
    """The path of a new file with the content."""
    torch.save(content, path)
    return path

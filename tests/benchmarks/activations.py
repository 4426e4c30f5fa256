"""Bytes that a network keeps for its backward pass, counted without computing anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from training.models.norm_silu import NormSiLU
from training.models.precision import at_least_float32
from training.models.tokenizer import Tokenizer, TokenizerConfig


class PlainNorm(NormSiLU):
    """silu(norm(x)) as two layers, the norm in float32 as CUDA's autocast runs it."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, at least float32."""
        return F.silu(nn.GroupNorm.forward(self, at_least_float32(input)))


class SigmoidNorm(NormSiLU):
    """n * sigmoid(n) of n = norm(x), as the VQGAN trainers write it; also in float32."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, at least float32."""
        normed = nn.GroupNorm.forward(self, at_least_float32(input))
        return normed * torch.sigmoid(normed)


def with_norm(module: nn.Module, kind: type[NormSiLU]) -> None:
    """Let every NormSiLU of a module compute as `kind` does; parameters stay."""
    for part in module.modules():
        if isinstance(part, NormSiLU):
            part.__class__ = kind


def activation_bytes_per_image(config: TokenizerConfig, size: int, kind: type[NormSiLU]) -> int:
    """What encoder and decoder keep per image of size x size pixels under bfloat16 autocast."""
    with FakeTensorMode():
        tokenizer = Tokenizer(config)
        with_norm(tokenizer, kind)

        def kept(num_images: int) -> int:
            with kept_bytes() as storages, torch.autocast("cpu", torch.bfloat16):
                z = tokenizer.encoder(torch.zeros(num_images, 3, size, size))
                # Kept alive: the storage of what is freed could come back under the same address.
                x_hat = tokenizer.decoder(z)
                total = sum(storages.values())
            del x_hat
            return total

        # Weights, and their narrow copies, do not grow with the batch: the difference is an image.
        return kept(2) - kept(1)


@contextmanager
def kept_bytes() -> Iterator[dict[int, int]]:
    """Bytes by storage of the tensors that autograd keeps inside."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield storages

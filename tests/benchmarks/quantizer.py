"""The quantizer's search and statistics beside the forms that hold an N x K matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.timing import interleaved, ratio, show
from training.models.quantizer import EmaQuantizer, QuantizerConfig

NUM_LATENTS = 4_096
RELEASE = "expanded distances, one-hot sums"
OURS = "EmaQuantizer: forward, take_statistics"


def _one_hot_sums(indices: Tensor, flat: Tensor, size: int) -> None:
    one_hot = F.one_hot(indices, size).to(flat)
    one_hot.sum(0)
    torch.mm(one_hot.T, flat)


def bench_quantizer() -> None:
    """Nearest codes and statistics for 4,096 latents, 16,384 codes of 256 dimensions (B5)."""
    # Restart candidates are no part of the other form either.
    quantizer = EmaQuantizer(QuantizerConfig(restart="none"))
    generator = torch.Generator().manual_seed(0)
    size, dim = quantizer.embed_avg.shape
    flat = F.normalize(torch.randn(NUM_LATENTS, dim, generator=generator), dim=1)
    quantizer.embedding.weight.copy_(
        F.normalize(torch.randn(size, dim, generator=generator), dim=1)
    )
    codes = quantizer.codes()
    z = flat.T.reshape(1, dim, 64, -1)

    def expanded() -> Tensor:
        distances = flat.square().sum(1, keepdim=True) - 2 * flat @ codes.T + codes.square().sum(1)
        return distances.argmin(1)

    def narrow() -> Tensor:
        half = codes.bfloat16().T
        return torch.cat([(part.bfloat16() @ half).argmax(1) for part in torch.split(flat, 512)])

    def ours() -> None:
        with torch.no_grad():
            quantizer(z)
        quantizer.take_statistics(generator)

    searches: dict[str, Callable[[], Tensor]] = {
        "search: expanded distances": expanded,
        "search: cdist": lambda: torch.cdist(flat, codes).argmin(1),
        "search: EmaQuantizer.nearest": lambda: quantizer.nearest(flat),
        "search: dot products in bfloat16": narrow,
    }
    expected = expanded()
    found = quantizer.nearest(flat)
    assert torch.equal(found, expected), int((found != expected).sum())
    different = float((narrow() != expected).float().mean())
    timings = interleaved(
        {
            **searches,
            RELEASE: lambda: _one_hot_sums(expanded(), flat, size),
            OURS: ours,
        }
    )
    show(f"Quantizer, {NUM_LATENTS:,} latents, K = {size:,}, d = {dim}", timings)
    print(
        f"  one-hot form over ours: {ratio(timings, RELEASE, OURS)}; indices bit-equal in float32, "
        f"{different:.2%} differ in bfloat16"
    )

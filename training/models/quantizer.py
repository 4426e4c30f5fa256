"""Vector quantizer whose codebook follows the encoder by an exponential moving average (EMA).

Legend: K codes, d dimensions, N latent vectors of a batch (B x h x w).
The values are those of the published InsightTok quantizer; statistics are sums by index, never an
N x K matrix, and they are applied once per optimizer step, so gradient accumulation adds up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotations_schema.errors import UsageError

USAGE_WINDOW = 65_536
"""Indices that codebook usage is counted over."""

# Similarities held at once while searching the nearest codes: 2^25 float32 are 128 MiB.
_MAX_SIMILARITIES = 2**25
# Below this moving count a code keeps its place: the moving sum has lost its direction by then.
_MIN_COUNT = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerConfig:
    """Codebook and its update."""

    codebook_size: int = 16_384
    """K."""
    codebook_dim: int = 256
    """d."""
    is_normalized: bool = True
    """Latents and codes are scaled to unit length, so the nearest code is by cosine."""
    beta: float = 0.02
    """Weight of the commitment loss, a mean over all elements."""
    decay: float = 0.99
    """EMA decay per update, [0, 1)."""
    restart: Literal["reset", "release", "none"] = "reset"
    """What happens to a code below `restart_threshold`. "reset": it becomes a random latent of the
    step and its moving sums restart there. "release": as the published code, which replaces the
    code and keeps its stale sums. "none": nothing."""
    restart_threshold: float = 1.0
    """Moving count of latents per update below which a code is dead. The mean count is N / K, so a
    training step should bring at least two latents per code."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise UsageError(f"decay {self.decay} must be in [0, 1): 1 would never move a code")
        if min(self.codebook_size, self.codebook_dim) < 1:
            raise UsageError(
                f"a codebook of {self.codebook_size} x {self.codebook_dim} holds nothing: "
                f"both must be at least 1"
            )
        if self.restart not in ("reset", "release", "none"):
            raise UsageError(f"restart {self.restart!r} must be reset, release or none")


class QuantizerOutput(NamedTuple):
    """What the quantizer makes of z.

    z_q: (B, d, h, w) float32, the codes; gradients pass straight through to z.
    indices: (B, h, w) int64 in [0, K).
    commitment: 0-d float32, beta * mean((sg(z_q) - z)^2).
    """

    z_q: Tensor
    indices: Tensor
    commitment: Tensor


class _Statistics(NamedTuple):
    """Sums over the latents seen since the last update, and those latents."""

    counts: Tensor
    sums: Tensor
    latents: tuple[Tensor, ...]
    indices: tuple[Tensor, ...]


class EmaQuantizer(nn.Module):
    """Nearest code per latent; the codebook moves only in `update_codebook`.

    In training mode, and unless `frozen`, each forward pass adds its latents to the statistics of
    the next update. State: embedding.weight (K, d), embed_avg (K, d), cluster_size (K,),
    codebook_used (65536,), the names of the published checkpoint.
    """

    embed_avg: Tensor
    cluster_size: Tensor
    codebook_used: Tensor

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.frozen = False
        self.embedding = nn.Embedding(config.codebook_size, config.codebook_dim)
        self.embedding.weight.requires_grad_(False)
        nn.init.uniform_(
            self.embedding.weight, -1.0 / config.codebook_size, 1.0 / config.codebook_size
        )
        self.embedding.weight.copy_(self.codes())
        self.register_buffer("embed_avg", self.embedding.weight.clone())
        self.register_buffer("cluster_size", torch.ones(config.codebook_size))
        # -1 marks places of the window that no index has filled yet.
        self.register_buffer("codebook_used", torch.full((USAGE_WINDOW,), -1, dtype=torch.int64))
        self._pending: _Statistics | None = None

    def forward(self, z: Tensor) -> QuantizerOutput:
        """(B, d, h, w) of any float dtype -> codes, indices, commitment loss."""
        with torch.autocast(device_type=z.device.type, enabled=False):
            return self._quantize(z.float())

    def _quantize(self, z: Tensor) -> QuantizerOutput:
        z = self._on_sphere(z, dim=1)
        flat = z.detach().movedim(1, -1).reshape(-1, self.config.codebook_dim)
        indices = self.nearest(flat)
        if self.training and not self.frozen:
            self._collect(flat, indices)
        indices = indices.reshape(z.shape[0], *z.shape[2:])
        code = self.codes_at(indices)
        commitment = self.config.beta * F.mse_loss(z, code)
        return QuantizerOutput(z + (code - z).detach(), indices, commitment)

    def codes(self) -> Tensor:
        """(K, d) float32, of unit length where the configuration says so."""
        return self._on_sphere(self.embedding.weight.detach(), dim=1)

    def codes_at(self, indices: Tensor) -> Tensor:
        """(B, h, w) indices -> (B, d, h, w) codes."""
        return F.embedding(indices, self.codes()).movedim(-1, 1)

    def nearest(self, flat: Tensor) -> Tensor:
        """(N, d) float32 -> (N,) int64, the nearest code of each vector; the lowest of equals."""
        codes = self.codes()
        # |z - e|^2 = |z|^2 - 2 (z.e - |e|^2 / 2): only the bracket decides, and on the unit sphere
        # only z.e.
        half_norms = 0.0 if self.config.is_normalized else codes.square().sum(1) / 2
        rows = max(1, _MAX_SIMILARITIES // len(codes))
        return torch.cat(
            [(part @ codes.T - half_norms).argmax(1) for part in torch.split(flat, rows)]
        )

    @torch.no_grad()
    def _collect(self, flat: Tensor, indices: Tensor) -> None:
        pending = self._pending or _Statistics(
            torch.zeros_like(self.cluster_size), torch.zeros_like(self.embed_avg), (), ()
        )
        pending.counts.index_add_(0, indices, torch.ones_like(flat[:, 0]))
        pending.sums.index_add_(0, indices, flat)
        self._pending = pending._replace(
            latents=(*pending.latents, flat), indices=(*pending.indices, indices)
        )

    @torch.no_grad()
    def update_codebook(self, generator: torch.Generator) -> None:
        """Moves the codebook by the latents seen since the last call; nothing seen, nothing done.

        Args:
            generator: CPU generator for the latents that dead codes become; each update draws
                the same amount from it, whatever the number of dead codes.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        rate = 1.0 - self.config.decay
        self.cluster_size.lerp_(pending.counts, rate)
        self.embed_avg.lerp_(pending.sums, rate)
        self.embedding.weight.copy_(self._moved_codes())
        if self.config.restart != "none":
            self._restart(torch.cat(pending.latents), generator)
        self._record(torch.cat(pending.indices))

    def _moved_codes(self) -> Tensor:
        counts = self.cluster_size[:, None]
        mean = self.embed_avg / counts.clamp_min(_MIN_COUNT)
        return torch.where(counts > _MIN_COUNT, self._on_sphere(mean, dim=1), self.embedding.weight)

    def _restart(self, latents: Tensor, generator: torch.Generator) -> None:
        threshold = self.config.restart_threshold
        is_dead = self.cluster_size < threshold
        fresh = self._on_sphere(_draw(latents, len(is_dead), generator), dim=1)
        self.embedding.weight.copy_(torch.where(is_dead[:, None], fresh, self.embedding.weight))
        if self.config.restart == "reset":
            self.embed_avg.copy_(torch.where(is_dead[:, None], fresh * threshold, self.embed_avg))
            self.cluster_size.masked_fill_(is_dead, threshold)

    def _record(self, indices: Tensor) -> None:
        window = torch.cat([self.codebook_used, indices.reshape(-1)])
        self.codebook_used.copy_(window[-USAGE_WINDOW:])

    def _on_sphere(self, vectors: Tensor, *, dim: int) -> Tensor:
        return F.normalize(vectors, dim=dim) if self.config.is_normalized else vectors

    def usage(self) -> float:
        """Share of codes in the last 65,536 training indices, [0, 1]."""
        return codebook_usage(self.codebook_used, self.config.codebook_size)

    def perplexity(self) -> float:
        """exp of the entropy of the last 65,536 training indices, [1, K]; 0 where none."""
        return codebook_perplexity(self.codebook_used, self.config.codebook_size)


def codebook_usage(indices: Tensor, codebook_size: int) -> float:
    """Share of the codes that occur in `indices` (any shape; negative ones are ignored), [0, 1]."""
    return float((_histogram(indices, codebook_size) > 0).sum()) / codebook_size


def codebook_perplexity(indices: Tensor, codebook_size: int) -> float:
    """exp of the entropy of `indices`, [1, K]; 0 where no index is there."""
    counts = _histogram(indices, codebook_size).double()
    if not counts.any():
        return 0.0
    share = counts / counts.sum()
    return float(torch.exp(-torch.xlogy(share, share).sum()))


def _histogram(indices: Tensor, codebook_size: int) -> Tensor:
    used = indices[indices >= 0]
    return torch.bincount(used, minlength=codebook_size)


def _draw(latents: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random rows of (N, d): all different while there are enough, else with noise."""
    num_latents, dim = latents.shape
    if num_latents >= count:
        picks = torch.randperm(num_latents, generator=generator)[:count]
        return latents.index_select(0, picks.to(latents.device))
    picks = torch.randint(num_latents, (count,), generator=generator)
    noise = torch.randn(count, dim, generator=generator) * (0.01 / math.sqrt(dim))
    return latents.index_select(0, picks.to(latents.device)) + noise.to(latents)

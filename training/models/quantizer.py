"""Vector quantizer whose codebook follows the encoder by an exponential moving average (EMA).

Legend: K codes, d dimensions, N latent vectors of a batch (B x h x w).
The values are those of the published InsightTok quantizer; statistics are sums by index, never an
N x K matrix, and they are applied once per optimizer step over the latents of all its micro batches
and ranks, so neither accumulation nor the number of ranks changes the codebook.
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

# Similarities held at once while searching the nearest codes, by `is_cuda`: 32 MiB, about a CPU's
# cache, or 512 MiB, which keep a GPU busy.
_MAX_SIMILARITIES = {False: 2**23, True: 2**27}
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


class EmaQuantizer(nn.Module):
    """Nearest code per latent; the codebook moves only in `update_codebook`.

    In training mode, and unless `frozen`, each forward pass keeps its latents for the next update:

        for micro_batch in step: quantizer(...)
        statistics = quantizer.take_statistics(generator, rank=rank, ranks=ranks)
        if statistics is not None: all_reduce(statistics)  # SUM, where there are several ranks
        quantizer.update_codebook(statistics, gate)

    State: embedding.weight (K, d), embed_avg (K, d), cluster_size (K,), codebook_used (65536,), the
    names of the published checkpoint. Nothing here waits for the device, apart from `usage` and
    `perplexity`.
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
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, z: Tensor) -> QuantizerOutput:
        """(B, d, h, w) of any float dtype -> codes, indices, commitment loss."""
        with torch.autocast(device_type=z.device.type, enabled=False):
            return self._quantize(z.float())

    def _quantize(self, z: Tensor) -> QuantizerOutput:
        z = self._on_sphere(z, dim=1)
        flat = z.detach().movedim(1, -1).reshape(-1, self.config.codebook_dim)
        indices = self.nearest(flat)
        if self.training and not self.frozen:
            self._seen.append((flat, indices))
        indices = indices.reshape(z.shape[0], *z.shape[2:])
        code = self.codes_at(indices)
        commitment = self.config.beta * F.mse_loss(z, code)
        return QuantizerOutput(z + (code - z).detach(), indices, commitment)

    def codes(self) -> Tensor:
        """(K, d) float32, of unit length where the configuration says so."""
        return self._on_sphere(self.embedding.weight.detach(), dim=1)

    def codes_at(self, indices: Tensor) -> Tensor:
        """(B, h, w) indices -> (B, d, h, w) codes."""
        rows = F.embedding(indices, self.embedding.weight.detach())
        return self._on_sphere(rows, dim=-1).movedim(-1, 1)

    def nearest(self, flat: Tensor) -> Tensor:
        """(N, d) float32 -> (N,) int64, the nearest code of each vector; the lowest of equals."""
        codes = self.codes()
        # |z - e|^2 = |z|^2 - 2 (z.e - |e|^2 / 2): only the bracket decides, and on the unit sphere
        # only z.e.
        half_norms = None if self.config.is_normalized else codes.square().sum(1) / 2
        rows = max(1, _MAX_SIMILARITIES[flat.is_cuda] // len(codes))
        return torch.cat([_best(part @ codes.T, half_norms) for part in torch.split(flat, rows)])

    @torch.no_grad()
    def take_statistics(
        self, generator: torch.Generator, *, rank: int = 0, ranks: int = 1
    ) -> Tensor | None:
        """What this rank saw since the last call; the sum over ranks is what all of them saw.

        Called once per optimizer step, after its last forward pass. Every rank must have seen as
        many latents as the others, its own being `rank` of `ranks` equal parts of the step.

        Args:
            generator: CPU generator in the same state on every rank, for the latents that dead
                codes become; how much is drawn depends on the sizes alone.
            rank: of this process.
            ranks: number of processes.

        Returns:
            1-d float32: counts (K), sums (K x d), restart candidates (K x d, unless restart is
            "none"), the step's last indices (at most 65,536). None where nothing was seen.
        """
        if not self._seen:
            return None
        latents, indices = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        counts = torch.zeros_like(self.cluster_size)
        counts.index_add_(0, indices, torch.ones_like(latents[:, 0]))
        sums = torch.zeros_like(self.embed_avg).index_add_(0, indices, latents)
        parts = [counts, sums.flatten()]
        first, total = rank * len(latents), ranks * len(latents)
        if self.config.restart != "none":
            parts.append(_candidates(latents, first, total, len(counts), generator).flatten())
        # As floats, which hold whole numbers up to 2^24 exactly.
        window = latents.new_zeros(ranks, len(latents))
        window[rank] = indices
        parts.append(window.flatten()[-USAGE_WINDOW:])
        return torch.cat(parts)

    @torch.no_grad()
    def update_codebook(self, statistics: Tensor | None, gate: Tensor | None = None) -> None:
        """Moves the codebook by the latents of one optimizer step.

        Args:
            statistics: of `take_statistics`, summed over ranks; None does nothing.
            gate: 0-d bool; False leaves every tensor as it is, whatever the statistics hold.
        """
        if statistics is None:
            return
        size, dim = self.embed_avg.shape
        num_candidates = 0 if self.config.restart == "none" else size
        sizes = [size, size * dim, num_candidates * dim]
        counts, sums, candidates, indices = torch.split(
            statistics, [*sizes, len(statistics) - sum(sizes)]
        )
        rate = 1.0 - self.config.decay
        cluster_size = self.cluster_size.lerp(counts, rate)
        embed_avg = self.embed_avg.lerp(sums.reshape(size, dim), rate)
        codes = self._moved_codes(cluster_size, embed_avg)
        if num_candidates:
            fresh = self._on_sphere(candidates.reshape(size, dim), dim=1)
            is_dead = cluster_size < self.config.restart_threshold
            codes = torch.where(is_dead[:, None], fresh, codes)
            if self.config.restart == "reset":
                restarted = fresh * self.config.restart_threshold
                embed_avg = torch.where(is_dead[:, None], restarted, embed_avg)
                cluster_size = cluster_size.masked_fill(is_dead, self.config.restart_threshold)
        window = torch.cat([self.codebook_used, indices.to(torch.int64)])[-USAGE_WINDOW:]
        for state, moved in (
            (self.cluster_size, cluster_size),
            (self.embed_avg, embed_avg),
            (self.embedding.weight, codes),
            (self.codebook_used, window),
        ):
            state.copy_(moved if gate is None else torch.where(gate, moved, state))

    def _moved_codes(self, cluster_size: Tensor, embed_avg: Tensor) -> Tensor:
        counts = cluster_size[:, None]
        mean = embed_avg / counts.clamp_min(_MIN_COUNT)
        return torch.where(counts > _MIN_COUNT, self._on_sphere(mean, dim=1), self.embedding.weight)

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
    counts = _histogram(indices, codebook_size)
    if not counts.any():
        return 0.0
    share = counts / counts.sum()
    return float(torch.exp(-torch.xlogy(share, share).sum()))


def _histogram(indices: Tensor, codebook_size: int) -> Tensor:
    places = indices.flatten() + 1
    counts = torch.zeros(codebook_size + 1, dtype=torch.float64, device=indices.device)
    return counts.index_add_(0, places, torch.ones_like(places, dtype=counts.dtype))[1:]


def _best(similarities: Tensor, half_norms: Tensor | None) -> Tensor:
    return (similarities if half_norms is None else similarities.sub_(half_norms)).argmax(1)


def _candidates(
    latents: Tensor, first: int, total: int, count: int, generator: torch.Generator
) -> Tensor:
    """(count, d): random latents of the step where they are rows `first`... of it, else zeros.

    All different while the step has enough, else told apart by noise of length about 0.01.
    """
    num_latents, dim = latents.shape
    if total >= count:
        picks, noise = torch.randperm(total, generator=generator)[:count], None
    else:
        picks = torch.randint(total, (count,), generator=generator)
        # Overlapping windows of one sequence are different, and cost 1 / d of the numbers.
        noise = torch.randn(count + dim - 1, generator=generator) * (0.01 / math.sqrt(dim))
    # Copies of pageable memory that do not block are staged by the driver before they return.
    rows = picks.to(latents.device, non_blocking=True) - first
    drawn = latents.index_select(0, rows.clamp(0, num_latents - 1))
    if noise is not None:
        drawn = drawn + noise.to(drawn, non_blocking=True).unfold(0, dim, 1)
    is_own = (rows >= 0) & (rows < num_latents)
    return torch.where(is_own[:, None], drawn, 0.0)

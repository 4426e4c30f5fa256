"""One training step as LlamaGen's trainer does it, and the rungs from there to ours.

Written from a description of that trainer (attention by explicit products, x * sigmoid(x), an Adam
that is not fused, averaged weights tensor by tensor, distances of every latent to every code, an
entropy loss of weight 0, gradients of the discriminator's weights in the generator's step, values
read by the host), on this project's networks, so that both contestants compute the same numbers.
Imports torch, numpy and this project alone, see `gpu_ladder`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.activations import PlainNorm, SigmoidNorm, with_norm
from training.data.batch import RegionBatch
from training.ema import WeightEma
from training.losses.adversarial import discriminator_loss, generator_loss
from training.losses.gradients import inject
from training.losses.objective import FrozenNets, discriminator_objective, generator_objective
from training.losses.objective_config import ObjectiveConfig
from training.machine import MachineConfig
from training.models.autoencoder import AttnBlock
from training.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from training.models.lean import make_lean
from training.models.norm_silu import NormSiLU
from training.models.precision import at_least_float32
from training.models.quantizer import EmaQuantizer, QuantizerOutput
from training.models.tokenizer import Tokenizer, TokenizerConfig

LEARNING_RATE, BETAS, CLIP, DECAY, ADVERSARIAL = 1e-4, (0.9, 0.95), 1.0, 0.9999, 0.1
OBJECTIVE = ObjectiveConfig(adversarial_weight=ADVERSARIAL)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """How a step is done; the defaults are the reference's."""

    name: str = "reference"
    norm: type[NormSiLU] = SigmoidNorm
    has_fused_attention: bool = False
    machine: MachineConfig = field(default_factory=MachineConfig)
    has_fused_updates: bool = False
    has_lean_quantizer: bool = False
    has_injection: bool = False
    """Losses and gradients at a detached x_hat, nothing for the discriminator's weights in the
    generator's step, no value read by the host: this project's objective."""


def ladder(*, on_gpu: bool) -> list[Rung]:
    """From the reference to ours, each rung one change more than the one before."""
    rungs = [Rung()]

    def add(name: str, **changes: object) -> None:
        rungs.append(replace(rungs[-1], name=name, **changes))  # type: ignore[arg-type]

    add("+ F.silu, fused attention", norm=PlainNorm, has_fused_attention=True)
    add("+ lean GroupNorm-SiLU", norm=NormSiLU)
    if on_gpu:
        add("+ channels_last", machine=MachineConfig(channels_last=True))
        add("+ compiled regions", machine=MachineConfig(channels_last=True, compile=True))
    add("+ fused AdamW, foreach EMA", has_fused_updates=True)
    add("+ lean quantizer", has_lean_quantizer=True)
    add("+ gradients at x_hat, no host sync", has_injection=True)
    return rungs


class BmmAttention(AttnBlock):
    """The same attention by two batched products with all weights in between."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2) for conv in (self.q, self.k, self.v))
        weights = torch.bmm(q.transpose(1, 2), k) * x.shape[1] ** -0.5
        attended = torch.bmm(v, torch.softmax(weights, dim=2).to(v.dtype).transpose(1, 2))
        out: Tensor = x + self.proj_out(attended.reshape(x.shape))
        return out


class DenseQuantizer(EmaQuantizer):
    """Distances of all latents to all codes, one-hot sums, and an entropy loss of weight 0."""

    def _quantize(self, z: Tensor) -> QuantizerOutput:
        z = F.normalize(z, dim=1)
        flat, codes = z.movedim(1, -1).reshape(-1, z.shape[1]), self.codes()
        distances = flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.T
        indices = distances.argmin(1)
        self._seen.append((flat.detach(), indices))
        log_shares = F.log_softmax(-distances, 1)
        entropy = -(F.softmax(-distances, 1) * log_shares).sum(1).mean()
        indices = indices.reshape(z.shape[0], *z.shape[2:])
        code = self.codes_at(indices)
        commitment = self.config.beta * F.mse_loss(z, code) + 0.0 * entropy
        return QuantizerOutput(z + (code - z).detach(), indices, commitment)

    def take_statistics(
        self, generator: torch.Generator, *, rank: int = 0, ranks: int = 1
    ) -> Tensor | None:
        """The same statistics, counts and sums by a product with the one-hot matrix."""
        latents, indices = self._seen[0]
        one_hot = F.one_hot(indices, self.config.codebook_size).to(latents)
        dense = torch.cat([one_hot.sum(0), (one_hot.T @ latents).flatten()])
        packed = super().take_statistics(generator, rank=rank, ranks=ranks)
        assert packed is not None
        packed[: len(dense)] = dense
        # What the codebook is used for is counted, and read, every step.
        len(torch.unique(self.codebook_used))
        return packed


class RandomVgg(nn.Module):
    """(x, x_hat) -> 0-d distance of unit features of a VGG16 trunk with random weights."""

    def __init__(self, share: float = 1.0) -> None:
        """`share` of VGG16's channels."""
        super().__init__()
        self.stages = nn.ModuleList()
        before = 3
        for stage, (convolutions, channels) in enumerate(
            ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
        ):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if stage else []
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, int(channels * share), 3, padding=1), nn.ReLU()]
                before = int(channels * share)
            self.stages.append(nn.Sequential(*layers))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Gradients reach x_hat alone."""
        with torch.no_grad():
            targets = self._features(x)
        pairs = zip(targets, self._features(x_hat), strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).sum()

    def _features(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            wide = at_least_float32(x)
            maps.append(wide * (wide.square().sum(1, keepdim=True) + 1e-10).rsqrt())
        return maps


class Nets(NamedTuple):
    """What all contestants start from; each takes copies."""

    tokenizer: Tokenizer
    discriminator: PatchDiscriminator
    perceptual: RandomVgg


def random_nets(
    config: TokenizerConfig, discriminator: DiscriminatorConfig, share: float = 1.0
) -> Nets:
    """Networks of seed 0; `share` of the perceptual network's channels."""
    torch.manual_seed(0)
    return Nets(Tokenizer(config), PatchDiscriminator(discriminator), RandomVgg(share))


class Contestant:
    """A training of its own at one rung.

    Args:
        nets: initial weights, copied.
        rung: how it computes.
        device: where.
        is_narrow: bfloat16 autocast.
        nets_of_regions: text and face network, of the last rung alone.
        objective: weights, those of the region losses of the last rung alone.
    """

    def __init__(
        self,
        nets: Nets,
        rung: Rung,
        device: torch.device,
        *,
        is_narrow: bool = False,
        nets_of_regions: FrozenNets | None = None,
        objective: ObjectiveConfig = OBJECTIVE,
    ) -> None:
        self.rung, self.device, self.is_narrow, self.objective = rung, device, is_narrow, objective
        self.tokenizer = copy.deepcopy(nets.tokenizer).to(device)
        self.discriminator = copy.deepcopy(nets.discriminator).to(device)
        self.perceptual = copy.deepcopy(nets.perceptual).to(device)
        self.nets = (nets_of_regions or FrozenNets())._replace(perceptual=self.perceptual)
        with_norm(self.tokenizer, rung.norm)
        for part in self.tokenizer.modules():
            if isinstance(part, AttnBlock) and not rung.has_fused_attention:
                part.__class__ = BmmAttention
        if not rung.has_lean_quantizer:
            self.tokenizer.quantize.__class__ = DenseQuantizer
        make_lean(self.tokenizer, rung.machine)
        for network in (self.discriminator, self.perceptual):
            make_lean(network, rung.machine)
        self.ema = WeightEma(self.tokenizer, DECAY, copied=("quantize.",))
        self.optimizers = [
            _adam(network, is_fused=rung.has_fused_updates)
            for network in (self.tokenizer, self.discriminator)
        ]
        self.random = torch.Generator().manual_seed(0)
        self.anchors = torch.zeros(2, device=device)
        self.kept_bytes = 0
        """Bytes that the last forward pass left for its backward pass; 0 on a CPU."""

    def step(self, x: Tensor, regions: RegionBatch | None = None) -> dict[str, Tensor]:
        """One optimizer step; gradients stay until the next, for comparisons."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        do = self._injected if self.rung.has_injection else self._plain
        terms = do(x, no_regions(self.device) if regions is None else regions)
        for network, optimizer in zip(
            (self.tokenizer, self.discriminator), self.optimizers, strict=True
        ):
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
        quantizer = self.tokenizer.quantize
        quantizer.update_codebook(quantizer.take_statistics(self.random))
        self._average()
        return terms

    def _forward(self, x: Tensor) -> tuple[object, Tensor, Tensor]:
        before = _allocated(self.device)
        output = self.tokenizer(x)
        self.kept_bytes = _allocated(self.device) - before
        return output, output.x_hat, output.commitment

    def _plain(self, x: Tensor, regions: RegionBatch) -> dict[str, Tensor]:
        del regions  # the reference has no region losses
        with self._autocast():
            _, x_hat, commitment = self._forward(x)
            total = F.l1_loss(x_hat, x) + self.perceptual(x, x_hat) + commitment
            total = total + ADVERSARIAL * generator_loss(self.discriminator(x_hat))
        torch.autograd.backward(total)
        total.item()
        # What the generator's step left in the discriminator was computed for nothing.
        self.optimizers[1].zero_grad(set_to_none=True)
        with self._autocast():
            judged = discriminator_loss(self.discriminator(x), self.discriminator(x_hat.detach()))
        torch.autograd.backward(judged)
        judged.item()
        return {"total": total.detach(), "discriminator": judged.detach()}

    def _injected(self, x: Tensor, regions: RegionBatch) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        with self._autocast():
            output, x_hat, _ = self._forward(x)
            terms = generator_objective(
                self.objective,
                x=x,
                output=output,  # type: ignore[arg-type]
                regions=regions,
                nets=self.nets,
                discriminator=self.discriminator,
                step=0,
            )
        inject(x_hat, terms.gradient, terms.commitment)
        self.discriminator.requires_grad_(True)
        with self._autocast():
            judged = discriminator_objective(
                self.discriminator, x, x_hat, self.objective, self.anchors
            )
        torch.autograd.backward(judged.total)
        return {"total": terms.total, "discriminator": judged.total.detach()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, self.is_narrow)

    @torch.no_grad()
    def _average(self) -> None:
        if self.rung.has_fused_updates:
            self.ema.update(self.tokenizer)
            return
        self.ema.num_updates += 1
        decay = min(DECAY, (1 + self.ema.num_updates) / (10 + self.ema.num_updates))
        averaged = dict(self.ema.module.named_parameters())
        for name, parameter in self.tokenizer.named_parameters():
            averaged[name].mul_(decay).add_(parameter, alpha=1 - decay)


def no_regions(device: torch.device) -> RegionBatch:
    """The regions of a batch that has none."""
    index = torch.zeros(0, dtype=torch.int64)
    empty = RegionBatch(
        text_boxes=torch.zeros(0, 4),
        text_image=index,
        text_weight=torch.zeros(0),
        face_theta=torch.zeros(0, 2, 3),
        face_image=index,
        face_weight=torch.zeros(0),
    )
    return empty.to(device)


def _adam(network: nn.Module, *, is_fused: bool) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    if is_fused:
        return torch.optim.AdamW(parameters, LEARNING_RATE, BETAS, weight_decay=0.0, fused=True)
    return torch.optim.Adam(parameters, LEARNING_RATE, BETAS)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0

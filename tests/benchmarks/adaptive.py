"""The adaptive adversarial weight: two passes through a kept graph, or gradients injected at x_hat.

Both on the tiny tokenizer with the real perceptual network and a discriminator: forward, weight and
backward, as one generator step does it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.benchmarks.timing import interleaved, ratio, show
from training.data.batch import RegionBatch
from training.losses.adversarial import generator_loss
from training.losses.gradients import inject
from training.losses.objective import FrozenNets, generator_objective
from training.losses.objective_config import ObjectiveConfig
from training.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from training.models.frozen.perceptual import load_perceptual
from training.models.tokenizer import CONFIGS, Tokenizer

IMAGES, SIDE = 4, 64
CONFIG = ObjectiveConfig(adversarial_weight=0.8, adaptive=True)
NO_REGIONS = RegionBatch(
    text_boxes=torch.zeros(0, 4),
    text_image=torch.zeros(0, dtype=torch.int64),
    text_weight=torch.zeros(0),
    face_theta=torch.zeros(0, 2, 3),
    face_image=torch.zeros(0, dtype=torch.int64),
    face_weight=torch.zeros(0),
)


class _Step:
    """One generator step in three ways, all on the same weights and images."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.tokenizer = Tokenizer(CONFIGS["tiny"]).eval()
        self.discriminator = PatchDiscriminator(DiscriminatorConfig(channels=32))
        self.discriminator.requires_grad_(False)
        self.perceptual = load_perceptual("vgg16_keras").eval()
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(IMAGES, 3, SIDE, SIDE, generator=generator) * 2 - 1

    def retained(self) -> Tensor:
        """The weight as taming-transformers computes it: each loss differentiated twice."""
        output = self.tokenizer(self.x)
        likelihood = (output.x_hat - self.x).abs().mean() + self.perceptual(self.x, output.x_hat)
        adversarial = generator_loss(self.discriminator(output.x_hat))
        last = self.tokenizer.decoder.conv_out.weight
        norms = [
            torch.linalg.vector_norm(torch.autograd.grad(loss, last, retain_graph=True)[0])
            for loss in (likelihood, adversarial)
        ]
        measured: Tensor = (norms[0] / (norms[1] + 1e-4)).clamp(max=CONFIG.adaptive_max)
        weight = CONFIG.adversarial_weight * measured.detach()
        (likelihood + weight * adversarial + output.commitment).backward()
        return weight

    def injected(self, config: ObjectiveConfig = CONFIG) -> Tensor:
        """The trainer's own step."""
        output = self.tokenizer(self.x)
        terms = generator_objective(
            config,
            x=self.x,
            output=output,
            regions=NO_REGIONS,
            nets=FrozenNets(perceptual=self.perceptual),
            discriminator=self.discriminator,
            step=0,
        )
        inject(output.x_hat, terms.gradient, terms.commitment)
        return terms.values.get("adversarial_weight", terms.total)

    def gradients(self) -> Tensor:
        """All gradients of the tokenizer as one vector, taken away."""
        parts = [p.grad.flatten() for p in self.tokenizer.parameters() if p.grad is not None]
        self.tokenizer.zero_grad(set_to_none=True)
        return torch.cat(parts)


def bench_adaptive() -> None:
    """Equality to 1e-6 of the weight, to 1e-5 of all gradients, then the time of each."""
    step = _Step()
    one, one_gradients = step.retained(), step.gradients()
    other, other_gradients = step.injected(), step.gradients()
    weight_gap = float((one - other).abs() / one)
    gradient_gap = float((one_gradients - other_gradients).norm() / one_gradients.norm())
    assert weight_gap < 1e-6, weight_gap
    assert gradient_gap < 1e-5, gradient_gap
    fixed = ObjectiveConfig(adversarial_weight=CONFIG.adversarial_weight)
    timings = interleaved(
        {
            "two autograd.grad with retain_graph": step.retained,
            "injection at x_hat": step.injected,
            "injection, fixed weight": lambda: step.injected(fixed),
        },
        rounds=5,
    )
    show(f"Adaptive weight, tiny tokenizer, VGG16, batch {IMAGES} at {SIDE}", timings)
    names = list(timings)
    print(
        f"  retained over injected: {ratio(timings, names[0], names[1])}, "
        f"adaptive over fixed: {ratio(timings, names[1], names[2])}, "
        f"weight {float(one):.4g} differs by {weight_gap:.1e}, gradients by {gradient_gap:.1e}"
    )

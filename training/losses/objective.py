"""The objective: named terms and their weighted sum, for generator and discriminator.

L = L_rec + w_perc L_perc + w_commit L_commit + w_adv L_adv + lambda_text L_text
    + lambda_face L_face    (equation 1 and section 3.2 of the paper)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from annotations_schema.errors import UsageError
from training.data.batch import RegionBatch
from training.losses.adversarial import discriminator_loss, generator_loss
from training.losses.face import face_loss
from training.losses.feature_distance import ChannelReduction, FeatureExtractor
from training.losses.reconstruction import ReconstructionNorm, reconstruction_loss
from training.losses.region_crops import BANNER_SIZE
from training.losses.text import text_loss
from training.models.tokenizer import TokenizerOutput

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """Weights of the terms; a term of weight 0 is not computed."""

    reconstruction: ReconstructionNorm = "l1"
    """Pixel loss, l1 or l2; its weight is 1."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual distance."""
    commitment_weight: float = 1.0
    """Weight of the commitment loss, which holds its own beta (`QuantizerConfig`)."""
    adversarial_weight: float = 0.1
    """Weight of the generator's hinge loss, from step `adversarial_start`."""
    adversarial_start: int = 0
    """First step at which the generator sees the discriminator, steps counted from 0."""
    discriminator_start: int = 0
    """First step at which the discriminator learns; before `adversarial_start`, so that the
    generator never meets an untrained one."""
    text_weight: float = 0.0
    """lambda_text."""
    face_weight: float = 0.0
    """lambda_face."""
    channel_reduction: ChannelReduction = "sum"
    """Of text and face features, see `feature_l1`."""
    banner_size: tuple[int, int] = BANNER_SIZE
    """(height, width) of text banners, pixels."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_weight") and not value >= 0:
                raise UsageError(f"{field.name} {value} must be at least 0")
        if self.discriminator_start > self.adversarial_start:
            raise UsageError(
                f"discriminator_start {self.discriminator_start} must not be after "
                f"adversarial_start {self.adversarial_start}"
            )

    def adversarial_weight_at(self, step: int) -> float:
        """Weight of the adversarial term at a step."""
        return self.adversarial_weight if step >= self.adversarial_start else 0.0

    def trains_discriminator_at(self, step: int) -> bool:
        """Whether the discriminator learns at a step."""
        return self.adversarial_weight > 0 and step >= self.discriminator_start


class FrozenNets(NamedTuple):
    """The networks that losses look through; None where the weight of the term is 0.

    perceptual: (x, x_hat) -> 0-d distance.
    text: the text recogniser's features.
    face: the face recogniser's features.
    """

    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    text: FeatureExtractor | None = None
    face: FeatureExtractor | None = None


class GeneratorTerms(NamedTuple):
    """The generator's loss (with graph) and its unweighted terms (0-d, detached, for logs)."""

    total: Tensor
    reconstruction: Tensor
    perceptual: Tensor
    commitment: Tensor
    adversarial: Tensor
    text: Tensor
    face: Tensor


class DiscriminatorTerms(NamedTuple):
    """The discriminator's loss (with graph) and mean logits (0-d, detached, for logs)."""

    total: Tensor
    logits_real: Tensor
    logits_fake: Tensor


def generator_objective(
    config: ObjectiveConfig,
    *,
    x: Tensor,
    output: TokenizerOutput,
    regions: RegionBatch,
    nets: FrozenNets,
    discriminator: Callable[[Tensor], Tensor] | None,
    step: int,
) -> GeneratorTerms:
    """All terms of the generator's loss at a step.

    Args:
        config: weights.
        x: (B, 3, H, W) in [-1, 1].
        output: of the tokenizer on x.
        regions: of the batch.
        nets: frozen networks.
        discriminator: images -> logits; its parameters should not require gradients meanwhile.
        step: counted from 0.

    Raises:
        UsageError: a term has a weight, but no network was given for it.
    """
    x_hat, channels = output.x_hat, config.channel_reduction
    weights = _weights_at(config, step)
    terms = {"reconstruction": reconstruction_loss(x, x_hat, config.reconstruction)}
    terms["commitment"] = output.commitment
    if weights["perceptual"]:
        terms["perceptual"] = _needed(nets.perceptual, "perceptual")(x, x_hat)
    if weights["adversarial"]:
        terms["adversarial"] = generator_loss(_needed(discriminator, "adversarial")(x_hat))
    if weights["text"]:
        net = _needed(nets.text, "text")
        terms["text"] = text_loss(
            x, x_hat, regions, net, size=config.banner_size, channels=channels
        )
    if weights["face"]:
        net = _needed(nets.face, "face")
        terms["face"] = face_loss(x, x_hat, regions, net, channels=channels)
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    logged = {name: terms[name].detach() if name in terms else x.new_zeros(()) for name in weights}
    return GeneratorTerms(total=total, **logged)


def discriminator_objective(
    discriminator: Callable[[Tensor], Tensor], x: Tensor, x_hat: Tensor
) -> DiscriminatorTerms:
    """The discriminator's hinge loss on originals and detached reconstructions.

    Args:
        discriminator: images -> logits.
        x: (B, 3, H, W) in [-1, 1].
        x_hat: the same shape; no gradient flows to it.
    """
    # Two passes, not one over both: under a batch norm the images would meet in its statistics.
    logits_real, logits_fake = discriminator(x), discriminator(x_hat.detach())
    return DiscriminatorTerms(
        total=discriminator_loss(logits_real, logits_fake),
        logits_real=logits_real.detach().mean(),
        logits_fake=logits_fake.detach().mean(),
    )


def _weights_at(config: ObjectiveConfig, step: int) -> dict[str, float]:
    return {
        "reconstruction": 1.0,
        "perceptual": config.perceptual_weight,
        "commitment": config.commitment_weight,
        "adversarial": config.adversarial_weight_at(step),
        "text": config.text_weight,
        "face": config.face_weight,
    }


def _needed(net: Callable[..., _T] | None, term: str) -> Callable[..., _T]:
    if net is None:
        raise UsageError(
            f"{term}_weight is above 0 but there is no {term} network: load one or set it to 0"
        )
    return net

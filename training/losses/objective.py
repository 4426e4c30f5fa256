"""The objective: named terms and their weighted sum, for generator and discriminator.

L = w_rec L_rec + w_perc L_perc + w_commit L_commit + w_adv L_adv + lambda_text L_text
    + lambda_face L_face    (equation 1 and section 3.2 of the paper)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar, get_args

import torch
from torch import Tensor

from annotations_schema.errors import UsageError
from training.data.batch import RegionBatch
from training.losses.adversarial import (
    GeneratorLoss,
    discriminator_loss,
    generator_loss,
    lecam_penalty,
)
from training.losses.face import face_loss
from training.losses.feature_distance import ChannelReduction, FeatureExtractor
from training.losses.gradients import adaptive_weight, gradient_at
from training.losses.reconstruction import ReconstructionNorm, reconstruction_loss
from training.losses.region_crops import BANNER_SIZE, BannerSampling
from training.losses.text import text_loss
from training.models.precision import at_least_float32
from training.models.tokenizer import TokenizerOutput

_T = TypeVar("_T")

# What the adversarial gradient is compared with by `adaptive`.
_LIKELIHOOD = ("reconstruction", "perceptual")

_CHOICES = {
    "reconstruction": ReconstructionNorm,
    "generator_loss": GeneratorLoss,
    "channel_reduction": ChannelReduction,
    "banner_sampling": BannerSampling,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """Weights of the terms; a term of weight 0 is not computed."""

    reconstruction: ReconstructionNorm = "l1"
    """Pixel loss, l1 or l2, which the paper leaves open; l1 as in SEED-Voken and taming, l2 as in
    LlamaGen, which blurs more."""
    reconstruction_weight: float = 1.0
    """Weight of the pixel loss; 1 in both parents."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual distance; 1 in both parents."""
    commitment_weight: float = 1.0
    """Weight of the commitment loss, which holds its own beta (`QuantizerConfig`)."""
    adversarial_weight: float = 0.1
    """Weight of the generator's adversarial loss, from step `adversarial_start`; SEED-Voken's.
    LlamaGen has 0.5. With `adaptive` it multiplies the measured weight; taming has 0.8 there."""
    adversarial_start: int = 0
    """First step at which the generator sees the discriminator, steps counted from 0."""
    discriminator_start: int = 0
    """First step at which the discriminator learns; before `adversarial_start`, so that the
    generator never meets an untrained one."""
    generator_loss: GeneratorLoss = "hinge"
    """hinge as in LlamaGen and taming, or non_saturating as in SEED-Voken. The discriminator always
    learns by the hinge loss, as in all of them."""
    adaptive: bool = False
    """Weigh the adversarial loss so that its gradient at the decoder's last layer is as long as
    that of pixel and perceptual loss together (VQGAN). Off: both parents use a fixed weight. Text
    and face loss stay out of the comparison, since they come and go with the regions of a batch;
    with them one discriminator would be heard by turns loud and low. Measured for each micro batch
    on its rank, as in taming."""
    adaptive_max: float = 1e4
    """Bound of the measured weight, before `adversarial_weight`; that of taming and LlamaGen."""
    lecam_weight: float = 0.0
    """Weight of LeCam's regulariser in the discriminator's loss, for little data; 0.05 in
    SEED-Voken, 0.001 in TiTok, absent from LlamaGen."""
    lecam_decay: float = 0.999
    """Decay of its moving logits per optimizer step, [0, 1); SEED-Voken's and TiTok's."""
    text_weight: float = 0.0
    """lambda_text; `insight-train calibrate` proposes one."""
    face_weight: float = 0.0
    """lambda_face; `insight-train calibrate` proposes one."""
    channel_reduction: ChannelReduction = "sum"
    """Of text and face features, see `feature_l1`."""
    banner_size: tuple[int, int] = BANNER_SIZE
    """(height, width) of text banners, pixels."""
    banner_sampling: BannerSampling = "antialiased"
    """How text banners are cut, see `BannerSampling`: antialiased as recognisers are trained on, or
    bilinear, which is faster and skips pixels of boxes larger than the banner."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_weight") and not 0 <= value < float("inf"):
                raise UsageError(f"{field.name} {value} must be at least 0, and finite")
            if field.name in _CHOICES and value not in get_args(_CHOICES[field.name]):
                known = " or ".join(get_args(_CHOICES[field.name]))
                raise UsageError(f"{field.name} {value!r} must be {known}")
        if self.discriminator_start > self.adversarial_start:
            raise UsageError(
                f"discriminator_start {self.discriminator_start} must not be after "
                f"adversarial_start {self.adversarial_start}"
            )
        if not 0 <= self.lecam_decay < 1:
            raise UsageError(f"lecam_decay {self.lecam_decay} must be in [0, 1)")
        if not self.adaptive_max > 0:
            raise UsageError(f"adaptive_max {self.adaptive_max} must be above 0")
        if self.lecam_weight and not self.adversarial_weight:
            raise UsageError(
                f"lecam_weight {self.lecam_weight} regularises a discriminator, but "
                "adversarial_weight is 0: raise that or set lecam_weight to 0"
            )
        if self.adaptive and not self.adversarial_weight:
            raise UsageError(
                "adaptive weighs the adversarial loss, but adversarial_weight is 0: raise that or "
                "set adaptive to false"
            )
        if self.adaptive and not self.reconstruction_weight and not self.perceptual_weight:
            raise UsageError(
                "adaptive compares with pixel and perceptual loss, but both weights are 0: raise "
                "one or set adaptive to false"
            )

    def adversarial_weight_at(self, step: int) -> float:
        """Weight of the adversarial term at a step; with `adaptive`, factor of the measured one."""
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
    """The generator's loss as a gradient at x_hat, and what it consists of.

    gradient: (B, 3, H, W), d L / d x_hat without the commitment, the dtype of x_hat; no graph.
    commitment: 0-d, weighted; the one part with a graph, unless the encoder is frozen. Both go to
        `training.losses.gradients.inject`.
    total: 0-d, L with the commitment; no graph.
    values: the unweighted terms by name, 0-d without graph, 0 where a term has no weight; with
        `adaptive` also adversarial_weight, the weight in use.
    """

    gradient: Tensor
    commitment: Tensor
    total: Tensor
    values: dict[str, Tensor]


class DiscriminatorTerms(NamedTuple):
    """The discriminator's loss (with graph), and what it consists of (0-d, detached, for logs).

    lecam: unweighted, 0 without a weight.
    """

    total: Tensor
    logits_real: Tensor
    logits_fake: Tensor
    lecam: Tensor


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
    """All terms of the generator's loss at a step, and their gradient at x_hat.

    No backward pass enters the tokenizer here. May run under autocast.

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
    # float32, so that gradients of narrow reconstructions add up without loss.
    x_hat = at_least_float32(output.x_hat.detach()).requires_grad_()
    losses = image_losses(
        config, x=x, x_hat=x_hat, regions=regions, nets=nets, discriminator=discriminator
    )
    weights: dict[str, float | Tensor] = {
        "reconstruction": config.reconstruction_weight,
        "perceptual": config.perceptual_weight,
        "adversarial": config.adversarial_weight_at(step),
        "text": config.text_weight,
        "face": config.face_weight,
    }
    computed, gradients = {}, {}
    for name in [name for name, weight in weights.items() if weight]:
        loss = losses[name]()
        computed[name], gradients[name] = loss.detach(), gradient_at(loss, x_hat)
    values = dict.fromkeys(weights, x_hat.new_zeros(())) | computed
    if config.adaptive and "adversarial" in gradients:
        likelihood = {name: gradients[name] for name in _LIKELIHOOD if name in gradients}
        measured = adaptive_weight(
            output.last_features,
            _weighted_sum(likelihood, weights),
            gradients["adversarial"],
            config.adaptive_max,
        )
        weights["adversarial"] = values["adversarial_weight"] = measured * config.adversarial_weight
    commitment = config.commitment_weight * output.commitment
    gradient = _weighted_sum(gradients, weights) if gradients else torch.zeros_like(x_hat)
    image_loss = _weighted_sum(computed, weights) if computed else 0.0
    return GeneratorTerms(
        gradient=gradient.to(output.x_hat.dtype),
        commitment=commitment,
        total=image_loss + commitment.detach(),
        values={**values, "commitment": output.commitment.detach()},
    )


def image_losses(
    config: ObjectiveConfig,
    *,
    x: Tensor,
    x_hat: Tensor,
    regions: RegionBatch,
    nets: FrozenNets,
    discriminator: Callable[[Tensor], Tensor] | None,
) -> dict[str, Callable[[], Tensor]]:
    """The unweighted losses of x_hat by name, each computed (0-d, with graph) when it is called.

    Calling one without its network raises UsageError. Arguments as `generator_objective`.
    """
    channels = config.channel_reduction
    return {
        "reconstruction": lambda: reconstruction_loss(x, x_hat, config.reconstruction),
        "perceptual": lambda: _needed(nets.perceptual, "perceptual")(x, x_hat),
        "adversarial": lambda: generator_loss(
            _needed(discriminator, "adversarial")(x_hat), config.generator_loss
        ),
        "text": lambda: text_loss(
            x,
            x_hat,
            regions,
            _needed(nets.text, "text"),
            size=config.banner_size,
            channels=channels,
            sampling=config.banner_sampling,
        ),
        "face": lambda: face_loss(x, x_hat, regions, _needed(nets.face, "face"), channels=channels),
    }


def discriminator_objective(
    discriminator: Callable[[Tensor], Tensor],
    x: Tensor,
    x_hat: Tensor,
    config: ObjectiveConfig,
    anchors: Tensor,
) -> DiscriminatorTerms:
    """The discriminator's hinge loss on originals and detached reconstructions, and LeCam's.

    Args:
        discriminator: images -> logits.
        x: (B, 3, H, W) in [-1, 1].
        x_hat: the same shape; no gradient flows to it.
        config: weight of the regulariser.
        anchors: (2,) float32, from `lecam_anchors` of the steps before.
    """
    # Two passes, not one over both: under a batch norm the images would meet in its statistics.
    real, fake = discriminator(x), discriminator(x_hat.detach())
    total, lecam = discriminator_loss(real, fake), anchors.new_zeros(())
    if config.lecam_weight:
        lecam = lecam_penalty(real, fake, anchors)
        total = total + config.lecam_weight * lecam
    return DiscriminatorTerms(
        total=total,
        logits_real=at_least_float32(real.detach()).mean(),
        logits_fake=at_least_float32(fake.detach()).mean(),
        lecam=lecam.detach(),
    )


def _weighted_sum(tensors: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]) -> Tensor:
    return torch.stack([weights[name] * tensor for name, tensor in tensors.items()]).sum(0)


def _needed(net: Callable[..., _T] | None, term: str) -> Callable[..., _T]:
    if net is None:
        raise UsageError(
            f"{term}_weight is above 0 but there is no {term} network: load one or set it to 0"
        )
    return net

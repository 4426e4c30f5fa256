"""The objective: named terms and their weighted sum, for generator and discriminator.

L = w_rec L_rec + w_perc L_perc + w_commit L_commit + w_adv L_adv + lambda_text L_text
    + lambda_face L_face    (equation 1 and section 3.2 of the paper)

`global_text` is no term of the paper; it is what the paper is compared with, the loss of OCR-VQGAN
on whole images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from annotations_schema.errors import UsageError
from training.data.batch import RegionBatch
from training.losses.adversarial import discriminator_loss, generator_loss, lecam_penalty
from training.losses.face import face_loss
from training.losses.feature_distance import FeatureExtractor
from training.losses.gradients import adaptive_weight, gradient_at
from training.losses.objective_config import ObjectiveConfig
from training.losses.reconstruction import reconstruction_loss
from training.losses.text import text_loss
from training.models.precision import at_least_float32
from training.models.tokenizer import TokenizerOutput

_T = TypeVar("_T")

# What the adversarial gradient is compared with by `adaptive`.
_LIKELIHOOD = ("reconstruction", "perceptual")


class FrozenNets(NamedTuple):
    """The networks that losses look through; None where the weight of the term is 0.

    perceptual: (x, x_hat) -> 0-d distance.
    text: the text recogniser's features.
    face: the face recogniser's features.
    global_text: (x, x_hat) -> 0-d distance in the features of a text detector.
    """

    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    text: FeatureExtractor | None = None
    face: FeatureExtractor | None = None
    global_text: Callable[[Tensor, Tensor], Tensor] | None = None


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
        "global_text": config.global_text_weight,
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
            weighting=config.region_weighting,
        ),
        "face": lambda: face_loss(
            x,
            x_hat,
            regions,
            _needed(nets.face, "face"),
            channels=channels,
            weighting=config.region_weighting,
        ),
        "global_text": lambda: _needed(nets.global_text, "global_text")(x, x_hat),
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

"""One optimizer step of a training.

Reconstruct; the generator's losses and gradients; the discriminator's on the same reconstruction;
both optimizers; the codebook; the averaged weights. The host never waits for the device in it:
whether all was finite is decided there, by a gate that keeps everything as it is once it is closed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.config import Phase, PhaseStep, TrainConfig
from training.data.batch import Batch
from training.distributed import Ranks, Replicas, replicate
from training.finite import Seen
from training.losses.adversarial import lecam_anchors
from training.losses.gradients import inject
from training.losses.objective import FrozenNets, discriminator_objective, generator_objective
from training.models.tokenizer import Tokenizer
from training.state import TrainingState


def optimize(
    state: TrainingState,
    config: TrainConfig,
    nets: FrozenNets,
    micro_batches: Sequence[Batch],
    replicas: Replicas | None = None,
) -> dict[str, Tensor | float]:
    """One optimizer step over these batches of equal size; returns this rank's terms (0-d).

    Nothing moves where a term or gradient norm is not finite, here or on another rank, or was not
    at an earlier step; `state.gate.check` tells. `state.step` is left to the caller; torch's global
    random numbers are set anew from the seed and the step.

    Args:
        state: what is trained.
        config: how.
        nets: what the losses look through.
        micro_batches: this rank's part of the step, on the training's device.
        replicas: of `replicate`, made at the begin of the phase; needed with several ranks only.
    """
    replicas = replicas or replicate(state, Ranks())
    ranks, place = replicas.ranks, config.phase_at(state.step)
    torch.manual_seed(_random_seed(config.seed, state.step, ranks.rank))
    share = 1.0 / len(micro_batches)
    seen: list[Seen] = []
    for number, batch in enumerate(micro_batches, start=1):
        with replicas.accumulating(is_last=number == len(micro_batches)):
            terms = _add_gradients(state, config, nets, place, replicas, batch, share)
        seen.append(Seen(terms, batch.image_ids))
    means = {n: torch.stack([part.terms[n] for part in seen]).mean() for n in seen[0].terms}
    norms = _clip(state, config.optimizer.clip_norm, trains_discriminator="discriminator" in means)
    image_ids = [image for batch in micro_batches for image in batch.image_ids]
    _agree(state, place, [*seen, Seen(norms, image_ids)], means, ranks)
    _move(state, config, place, ranks, trains_discriminator="discriminator" in means)
    rate = config.optimizer.learning_rate * learning_rate_share(config, state.step)
    return {**means, **norms, "learning_rate": rate}


def _add_gradients(
    state: TrainingState,
    config: TrainConfig,
    nets: FrozenNets,
    place: PhaseStep,
    replicas: Replicas,
    batch: Batch,
    share: float,
) -> dict[str, Tensor]:
    """Add a share of both networks' gradients on one batch; returns the unweighted terms."""
    objective, discriminator = place.phase.objective, state.discriminator
    device_type, is_narrow = batch.images.device.type, config.precision == "bfloat16"
    with torch.autocast(device_type, torch.bfloat16, is_narrow), _frozen(discriminator):
        output = replicas.tokenizer(batch.images)
        terms = generator_objective(
            objective,
            x=batch.images,
            output=output,
            regions=batch.regions,
            nets=nets,
            # The bare network: what the generator asks of it is not to be communicated.
            discriminator=discriminator,
            step=place.step,
        )
    inject(output.x_hat, terms.gradient, terms.commitment, share)
    values = {**terms.values, "total": terms.total}
    if replicas.discriminator is None or not objective.trains_discriminator_at(place.step):
        return values
    # On the reconstruction from before the optimizer step, so one gate serves both networks.
    with torch.autocast(device_type, torch.bfloat16, is_narrow):
        judged = discriminator_objective(
            replicas.discriminator, batch.images, output.x_hat, objective, state.logit_anchors
        )
    torch.autograd.backward(judged.total * share)
    parts = judged._asdict() | {"discriminator": judged.total.detach()}
    return values | {name: part for name, part in parts.items() if name != "total"}


def _clip(state: TrainingState, largest: float, *, trains_discriminator: bool) -> dict[str, Tensor]:
    """Shorten gradients to a norm of at most `largest`; returns the norms from before."""
    norms = {"gradient_norm": nn.utils.clip_grad_norm_(state.tokenizer.parameters(), largest)}
    if trains_discriminator and state.discriminator is not None:
        norm = nn.utils.clip_grad_norm_(state.discriminator.parameters(), largest)
        norms["discriminator_gradient_norm"] = norm
    return norms


def _agree(
    state: TrainingState,
    place: PhaseStep,
    seen: Sequence[Seen],
    means: dict[str, Tensor],
    ranks: Ranks,
) -> None:
    """Close the gate where any rank met a bad number, and move the anchors of the logits."""
    badness = state.gate.badness(state.step, place.phase.name, seen)
    logits = [means[n].float() for n in ("logits_real", "logits_fake") if n in means]
    shared = ranks.sum(torch.stack([badness, *logits]))
    state.gate.close_if(shared[0])
    if logits:
        judged = dict(zip(("logits_real", "logits_fake"), shared[1:] / ranks.size, strict=True))
        moved = lecam_anchors(state.logit_anchors, judged, place.phase.objective.lecam_decay)
        state.logit_anchors = torch.where(state.gate.is_open, moved, state.logit_anchors)


def _move(
    state: TrainingState,
    config: TrainConfig,
    place: PhaseStep,
    ranks: Ranks,
    *,
    trains_discriminator: bool,
) -> None:
    """Weights, codebook and averages, one step on; nothing where the gate is closed."""
    rates, is_open = config.optimizer, state.gate.is_open
    rate = learning_rate_share(config, state.step)
    _apply(state.optimizer, rates.learning_rate * rate, is_open)
    if trains_discriminator and state.discriminator_optimizer is not None:
        rate *= rates.discriminator_learning_rate
        _apply(state.discriminator_optimizer, rate, is_open)
    if place.phase.train_codebook:
        # The same numbers on every rank: all of them choose the same latents for dead codes.
        shared = torch.Generator().manual_seed(_random_seed(config.seed, state.step, -1))
        quantizer = state.tokenizer.quantize
        statistics = quantizer.take_statistics(shared, rank=ranks.rank, ranks=ranks.size)
        if statistics is not None:
            quantizer.update_codebook(ranks.sum(statistics), is_open)
    state.ema.update(state.tokenizer, is_open)


def _apply(optimizer: torch.optim.Optimizer, learning_rate: float, is_open: Tensor) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    # Where torch's GradScaler tells a fused optimizer to leave weights and moments as they are.
    scaled: Any = optimizer
    scaled.found_inf = (~is_open).float()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def learning_rate_share(config: TrainConfig, step: int) -> float:
    """Learning rate at a step as a share of its peak: linear rise, then a cosine or constant."""
    o = config.optimizer
    rise = min(1.0, (step + 1) / (o.warmup_steps + 1))
    span = max(1, config.total_steps - o.warmup_steps)
    along = min(1.0, max(0.0, (step - o.warmup_steps) / span))
    return rise * (o.final_rate + (1.0 - o.final_rate) * 0.5 * (1.0 + math.cos(math.pi * along)))


def set_trainable(tokenizer: Tokenizer, phase: Phase) -> None:
    """Freeze and thaw the parts of the tokenizer as a phase asks."""
    tokenizer.encoder.requires_grad_(phase.train_encoder)
    tokenizer.quant_conv.requires_grad_(phase.train_encoder)
    tokenizer.quantize.frozen = not phase.train_codebook
    # Gradients of the phase before would still be seen by clipping and the optimizer.
    tokenizer.zero_grad(set_to_none=True)


@contextlib.contextmanager
def _frozen(discriminator: nn.Module | None) -> Iterator[None]:
    """In the generator's step the discriminator passes gradients on and collects none."""
    if discriminator is None:
        yield
        return
    discriminator.requires_grad_(False)
    try:
        yield
    finally:
        discriminator.requires_grad_(True)


def _random_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for every step and rank; rank -1 stands for all of them together.

    A pure function, so that a run's random numbers need no state that would have to be saved.
    """
    mixed = np.random.SeedSequence([seed, step, rank + 1]).generate_state(1, np.uint64)
    return int(mixed[0] >> np.uint64(1))

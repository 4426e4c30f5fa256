"""One optimizer step of ours beside the same step as LlamaGen's trainer does it, rung by rung."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from tests.benchmarks.activations import PlainNorm, SigmoidNorm, activation_bytes_per_image
from tests.benchmarks.reference_step import (
    BETAS,
    CLIP,
    DECAY,
    LEARNING_RATE,
    OBJECTIVE,
    Contestant,
    Nets,
    ladder,
    no_regions,
    random_nets,
)
from tests.benchmarks.timing import Timing, interleaved, ratio, show
from tests.training_micro import micro
from training.config import OptimizerConfig, Phase, TrainConfig
from training.data.batch import Batch
from training.losses.objective import FrozenNets
from training.models.autoencoder import AutoencoderConfig
from training.models.discriminator import DiscriminatorConfig
from training.models.norm_silu import NormSiLU
from training.models.quantizer import QuantizerConfig
from training.models.tokenizer import CONFIGS, TokenizerConfig
from training.state import initial_state
from training.step import optimize

# LlamaGen's network with a quarter of its channels and half its blocks. No restarts, whose random
# latents are drawn in another order by the trainer and would end the equality of the losses.
_TOKENIZER = TokenizerConfig(
    autoencoder=AutoencoderConfig(channels=32, num_res_blocks=1),
    quantizer=QuantizerConfig(restart="none"),
)
_DISCRIMINATOR = DiscriminatorConfig(channels=16)
_IMAGES, _SIDE, _VGG_SHARE = 4, 128, 0.25
_CPU = torch.device("cpu")
OURS = "insight-train's optimize()"

Step = Callable[[Tensor], Mapping[str, Tensor | float]]


def bench_step() -> None:
    """A step of generator and discriminator, float32 on the CPU; activations of the large nets."""
    x = torch.rand(_IMAGES, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    steps = contestants(random_nets(_TOKENIZER, _DISCRIMINATOR, _VGG_SHARE))
    gap = largest_gap(steps, x)
    assert gap < 1e-3, gap
    timings = interleaved({name: partial(step, x) for name, step in steps.items()}, rounds=5)
    show(
        f"One step, {_IMAGES} images of {_SIDE} px, losses within {gap:.0e}",
        timings,
        dict.fromkeys(timings, float(_IMAGES)),
    )
    _show_ratios(timings)
    _show_activations()


def contestants(nets: Nets) -> dict[str, Step]:
    """Every rung of the CPU's ladder and, last, the trainer's own step; all from equal weights."""
    rungs = {rung.name: Contestant(nets, rung, _CPU).step for rung in ladder(on_gpu=False)}
    return {**rungs, OURS: _trainer(nets)}


def largest_gap(steps: Mapping[str, Step], x: Tensor) -> float:
    """Largest relative difference of either loss from the reference's in two steps.

    The second step sees the weights that the first one's gradients made.
    """
    losses = {
        name: torch.stack([torch.as_tensor(t[k]) for t in (step(x), step(x)) for k in _LOSSES])
        for name, step in steps.items()
    }
    reference = losses["reference"]
    gaps = [((other - reference) / reference).abs().max() for other in losses.values()]
    return float(torch.stack(gaps).max())


_LOSSES = ("total", "discriminator")


def _trainer(nets: Nets) -> Step:
    tokenizer, discriminator, perceptual = nets
    config = _train_config(nets)
    state = initial_state(config, _CPU)
    state.tokenizer.load_state_dict(tokenizer.state_dict())
    state.ema.module.load_state_dict(tokenizer.state_dict())
    assert state.discriminator is not None
    state.discriminator.load_state_dict(discriminator.state_dict())

    def step(x: Tensor) -> Mapping[str, Tensor | float]:
        batch = Batch(x, no_regions(_CPU), tuple(str(i) for i in range(len(x))))
        return optimize(state, config, FrozenNets(perceptual=perceptual), [batch])

    return step


def _train_config(nets: Nets) -> TrainConfig:
    return replace(
        micro(Phase(name="base", steps=1_000, objective=OBJECTIVE)),
        tokenizer=nets.tokenizer.config,
        discriminator=nets.discriminator.config,
        optimizer=OptimizerConfig(
            learning_rate=LEARNING_RATE,
            discriminator_learning_rate=LEARNING_RATE,
            betas=BETAS,
            clip_norm=CLIP,
        ),
        ema_decay=DECAY,
    )


def _show_ratios(timings: Mapping[str, Timing]) -> None:
    names = list(timings)
    for before, name in itertools.pairwise(names):
        print(f"  {name}: {ratio(timings, before, name)} of the rung before")
    print(f"  reference over ours: {ratio(timings, names[0], names[-1])}, aim 1.3")


def _show_activations() -> None:
    print("\nActivations kept per image of 256 px under bfloat16 autocast (counted), GB")
    for name in ("insight_426m", "insight_111m", "llamagen_72m"):
        kept = [
            activation_bytes_per_image(CONFIGS[name], 256, kind) / 1e9
            for kind in (SigmoidNorm, PlainNorm, NormSiLU)
        ]
        print(f"  {name}: x * sigmoid(x) {kept[0]:.2f}, F.silu {kept[1]:.2f}, ours {kept[2]:.2f}")

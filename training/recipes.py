"""Recipes: functions that return the whole configuration of a run.

The paper gives the three phases and their lengths (200k, 40k, 40k steps) and the losses of each; it
gives no weight, rate, batch size or resolution. What is chosen here in their place is said in the
docstrings of the configuration classes and below, and can be changed with `--set`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from training.config import (
    DataConfig,
    FrozenNetsConfig,
    LogConfig,
    OptimizerConfig,
    Phase,
    TrainConfig,
)
from training.data.loader import StreamConfig
from training.data.transforms import CropConfig
from training.losses.objective_config import ObjectiveConfig
from training.machine import MachineConfig
from training.models.tokenizer import CONFIGS

Recipe = Callable[[], TrainConfig]


def insight_426m() -> TrainConfig:
    """InsightTok's network in the paper's three phases; 256 px, 128 images a step, bfloat16.

    One device holds 16 images of 256 px at a time; eight such batches make a step.
    """
    return TrainConfig(
        recipe="insight_426m",
        tokenizer=CONFIGS["insight_426m"],
        phases=_paper_phases(),
        data=DataConfig(stream=StreamConfig(batch_size=128)),
        precision="bfloat16",
        machine=MachineConfig(num_workers=8, micro_batch=16),
    )


def insight_111m() -> TrainConfig:
    """The same with half the channels: 111 million parameters."""
    return replace(
        insight_426m(),
        recipe="insight_111m",
        tokenizer=CONFIGS["insight_111m"],
        machine=MachineConfig(num_workers=8, micro_batch=32),
    )


def llamagen_72m() -> TrainConfig:
    """LlamaGen's VQ-16 network, the paper's baseline, in the paper's three phases."""
    return replace(insight_111m(), recipe="llamagen_72m", tokenizer=CONFIGS["llamagen_72m"])


def tiny() -> TrainConfig:
    """A demonstration on two CPU cores in about a minute: reconstruction and perceptual loss only.

    No adversarial term: in some hundred steps a discriminator learns nothing worth listening to.
    """
    return TrainConfig(
        recipe="tiny",
        # Unnormalised codes of 8 dimensions: 300 steps of 4 images ended at 22.8 dB on photographs
        # with words, 22.2 dB with the normalised codes of 32 dimensions.
        tokenizer=replace(
            CONFIGS["tiny"],
            quantizer=replace(
                CONFIGS["tiny"].quantizer,
                codebook_dim=8,
                is_normalized=False,
                beta=0.5,
                decay=0.95,
            ),
        ),
        phases=(
            Phase(name="base", steps=230, objective=_TINY_OBJECTIVE),
            Phase(name="regions", steps=100, objective=_TINY_OBJECTIVE),
        ),
        data=DataConfig(
            crop=CropConfig(size_px=64, min_window=0.25, region_focus=0.8),
            # For the same time more steps of fewer images end at a lower loss.
            stream=StreamConfig(batch_size=4, max_text=8, max_faces=4),
            min_side_px=32,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, final_rate=0.05, warmup_steps=10),
        # On a CPU the frozen networks cost more than the tokenizer: two layers, narrow banners.
        nets=FrozenNetsConfig(perceptual_layers=("relu1_2", "relu2_2"), text_width=128),
        log=LogConfig(metrics_every=10, preview_every=100, checkpoint_every=100),
        ema_decay=0.98,
    )


def tiny_regions() -> TrainConfig:
    """`tiny` with text and face loss in its second phase; steps, images, windows are the same."""
    config = tiny()
    base, last = config.phases
    objective = replace(last.objective, text_weight=0.003, face_weight=0.005)
    return replace(config, recipe="tiny_regions", phases=(base, replace(last, objective=objective)))


def evidence_cpu() -> TrainConfig:
    """What `make evidence` trains on a CPU: `tiny` in one phase, with windows that zoom more."""
    config = tiny()
    return replace(
        config,
        recipe="evidence_cpu",
        phases=(Phase(name="train", steps=2400, objective=_TINY_OBJECTIVE),),
        data=replace(config.data, crop=replace(config.data.crop, min_window=0.25, max_window=0.8)),
        optimizer=replace(config.optimizer, final_rate=0.1),
        log=LogConfig(metrics_every=20, preview_every=1000, checkpoint_every=100),
    )


def evidence_gpu() -> TrainConfig:
    """What `make evidence` trains on one GPU: LlamaGen's 72M network at 256 px in one phase."""
    objective = ObjectiveConfig(adversarial_start=4_000, discriminator_start=3_000)
    return replace(
        llamagen_72m(),
        recipe="evidence_gpu",
        phases=(Phase(name="train", steps=12_000, objective=objective),),
        data=DataConfig(
            crop=CropConfig(min_window=0.4, region_focus=0.8), stream=StreamConfig(batch_size=32)
        ),
        optimizer=OptimizerConfig(learning_rate=1e-4, final_rate=0.1, warmup_steps=200),
        log=LogConfig(metrics_every=50, preview_every=2000, checkpoint_every=500),
        ema_decay=0.999,
    )


_TINY_OBJECTIVE = ObjectiveConfig(perceptual_weight=0.05, adversarial_weight=0.0)

RECIPES: Mapping[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        insight_426m,
        insight_111m,
        llamagen_72m,
        tiny,
        tiny_regions,
        evidence_cpu,
        evidence_gpu,
    )
}
"""By the name used on the command line."""


def _paper_phases() -> tuple[Phase, ...]:
    """200k steps of base losses; 40k with text and face loss; 40k of the decoder alone.

    The region weights make the gradient of each region loss on the reconstruction about half as
    long as that of the perceptual loss, on images that were blurred to half their resolution
    (norms at 128 px: perceptual 0.27, text 17, face 7.8). They stay on in the last phase, of which
    the paper says only that it refines the reconstruction.
    """
    base = ObjectiveConfig(adversarial_start=20_000, discriminator_start=19_000)
    regions = ObjectiveConfig(text_weight=0.01, face_weight=0.02)
    return (
        Phase(name="base", steps=200_000, objective=base),
        Phase(name="regions", steps=40_000, objective=regions, images="with_regions"),
        Phase(
            name="decoder",
            steps=40_000,
            objective=regions,
            images="with_regions",
            train_encoder=False,
            train_codebook=False,
        ),
    )

"""The smallest training that runs every part: three phases, both region losses, a discriminator."""

from __future__ import annotations

from dataclasses import replace

from training.config import DataConfig, LogConfig, OptimizerConfig, Phase, TrainConfig
from training.data.loader import StreamConfig
from training.data.transforms import CropConfig
from training.losses.objective_config import ObjectiveConfig
from training.machine import MachineConfig
from training.models.autoencoder import AutoencoderConfig
from training.models.discriminator import DiscriminatorConfig
from training.models.quantizer import QuantizerConfig
from training.models.tokenizer import TokenizerConfig

TOKENIZER = TokenizerConfig(
    autoencoder=AutoencoderConfig(
        channels=8,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_levels=(),
        middle_attention=False,
        z_channels=8,
        norm_groups=4,
    ),
    quantizer=QuantizerConfig(codebook_size=32, codebook_dim=8),
)
PLAIN = ObjectiveConfig(perceptual_weight=0.0, adversarial_weight=0.0)
ADVERSARIAL = replace(PLAIN, adversarial_weight=0.1, adversarial_start=2, discriminator_start=1)
REGIONS = replace(PLAIN, adversarial_weight=0.1, text_weight=0.05, face_weight=0.05)


def micro(*phases: Phase) -> TrainConfig:
    """A configuration of these phases; by default one of four steps with L1 alone."""
    return TrainConfig(
        recipe="micro",
        tokenizer=TOKENIZER,
        phases=phases or (Phase(name="base", steps=4, objective=PLAIN),),
        discriminator=DiscriminatorConfig(channels=8, num_layers=2, norm_groups=8),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=2, final_rate=0.5),
        data=DataConfig(
            crop=CropConfig(size_px=32, min_text_px=4, min_face_px=8, region_focus=1.0),
            stream=StreamConfig(batch_size=2),
            min_side_px=16,
        ),
        log=LogConfig(metrics_every=1, preview_every=100, checkpoint_every=100, preview_images=2),
        ema_decay=0.9,
        machine=MachineConfig(device="cpu", threads=1),
    )


def three_phases(steps: int = 2) -> TrainConfig:
    """The paper's phases in small: base with a discriminator, regions, decoder alone."""
    return micro(
        Phase(name="base", steps=steps, objective=ADVERSARIAL),
        Phase(name="regions", steps=steps, objective=REGIONS, images="with_regions"),
        Phase(
            name="decoder",
            steps=steps,
            objective=REGIONS,
            images="with_regions",
            train_encoder=False,
            train_codebook=False,
        ),
    )

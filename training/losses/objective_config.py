"""Weights and choices of the objective."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_args

from annotations_schema.errors import UsageError
from training.losses.adversarial import GeneratorLoss
from training.losses.feature_distance import ChannelReduction
from training.losses.reconstruction import ReconstructionNorm
from training.losses.region_crops import BANNER_SIZE, BannerSampling
from training.losses.region_weights import RegionWeighting

_CHOICES = {
    "reconstruction": ReconstructionNorm,
    "generator_loss": GeneratorLoss,
    "channel_reduction": ChannelReduction,
    "banner_sampling": BannerSampling,
    "region_weighting": RegionWeighting,
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
    region_weighting: RegionWeighting = "area"
    """How regions share the text and the face loss, see `RegionWeighting`: area as in the paper."""
    global_text_weight: float = 0.0
    """Weight of a text detector's feature distance on whole images, as OCR-VQGAN trains; the rival
    of the paper's local loss, 0 in it."""

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

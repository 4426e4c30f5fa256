"""The configuration of a tokenizer training: frozen dataclasses, nested, next to nothing else.

A run is a recipe (`training.recipes`), perhaps with `--set key=value` overrides; the resolved
configuration is written to the run folder as config.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from annotations_schema.errors import UsageError
from training.data.loader import StreamConfig
from training.data.transforms import CropConfig
from training.losses.objective_config import ObjectiveConfig
from training.machine import MachineConfig
from training.models.discriminator import DiscriminatorConfig
from training.models.tokenizer import TokenizerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A training period; steps inside `objective` are counted from the start of the phase."""

    name: str
    """Its name in logs and file names."""
    steps: int
    """Optimizer steps."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Which losses, with which weights."""
    train_encoder: bool = True
    """False freezes the encoder and its 1x1 convolution to the codebook."""
    train_codebook: bool = True
    """False freezes the codebook: no EMA update, no restart."""
    images: Literal["all", "with_regions"] = "all"
    """with_regions: only images with a text region or a valid face, the curated subset of the
    paper's second period."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"phase {self.name}: steps={self.steps} must be at least 1")
        if not self.name.replace("_", "").isalnum():
            raise UsageError(f"phase name {self.name!r} must be letters, digits and underscores")

    @property
    def uses_discriminator(self) -> bool:
        """Whether the adversarial term has a weight."""
        return self.objective.adversarial_weight > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW for the tokenizer and, alike, for the discriminator. The paper states no value."""

    learning_rate: float = 1e-4
    """Peak rate; that of LlamaGen and SEED-Voken, the network's parents."""
    discriminator_learning_rate: float = 1e-4
    """Peak rate of the discriminator, the same as in both parents."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of both moments, as in LlamaGen."""
    weight_decay: float = 0.0
    """Decoupled weight decay; both parents train without."""
    clip_norm: float = 1.0
    """Largest gradient norm, of tokenizer and discriminator each, as in LlamaGen."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly."""
    final_rate: float = 1.0
    """Rate at the last step as a share of the peak; a cosine leads there. 1 keeps it constant, as
    the parents do; a short run gains from a lower one."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.discriminator_learning_rate <= 0 or self.clip_norm <= 0:
            raise UsageError("optimizer: learning rates and clip_norm must be above 0")
        if self.warmup_steps < 0 or not 0 <= self.final_rate <= 1:
            raise UsageError("optimizer: warmup_steps must be at least 0 and final_rate in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which images, cut how, batched how."""

    crop: CropConfig = field(default_factory=CropConfig)
    """Windows and their regions."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    """Batches."""
    min_side_px: int = 64
    """Images with a shorter side are left out: enlarged they teach blur."""
    images_root: Path | None = None
    """The dataset folder that manifest files address, where they lie outside of it."""
    where: str | None = None
    """Only images for which this SQL predicate over the manifests' columns is true; all where
    None."""
    weights: tuple[float, ...] | None = None
    """How often each source of --data is drawn, one positive number each. None: every image once an
    epoch, whichever source it comes from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenNetsConfig:
    """The frozen networks behind perceptual, text and face loss; loaded where a weight needs them.

    The defaults come inside installable packages. The paper's own, by path: lpips, abinet and
    iresnet50. A hash that is set is what the file must be; the hash of every file that is read
    stands in run.json.
    """

    perceptual: str = "vgg16_keras"
    """Name for `training.models.frozen.perceptual.load_perceptual`."""
    perceptual_path: Path | None = None
    """Its weights file, where it is not in an installed package."""
    perceptual_sha256: str | None = None
    """Hex sha256 that this file must have; the card's own where None."""
    perceptual_download: bool = False
    """Lets torchvision download the VGG16 of `lpips` into torch's cache, where no path is given."""
    perceptual_layers: tuple[str, ...] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    """Layers of the unweighted distance; `lpips` refuses fewer than its five."""
    text: str = "ppocr_v6_small"
    """Name for `training.models.frozen.recognisers.load_text_recogniser`."""
    text_path: Path | None = None
    """Its weights file, where it is not in an installed package."""
    text_sha256: str | None = None
    """Hex sha256 that this file must have; the card's own where None."""
    text_layers: tuple[str, ...] | None = None
    """Layers that are compared; the recogniser's own choice where None."""
    text_width: int | None = None
    """Width at which the recogniser sees a banner, pixels; its own where None."""
    global_text: str = "ppocr_v6_small_det"
    """Name for `training.models.frozen.text_detector.load_text_detector`."""
    global_text_path: Path | None = None
    """Its weights file, where it is not in an installed package."""
    global_text_sha256: str | None = None
    """Hex sha256 that this file must have; the card's own where None."""
    global_text_layers: tuple[str, ...] | None = None
    """Layers that are compared; all where None."""
    face: str = "sface"
    """Name for `training.models.frozen.recognisers.load_face_recogniser`."""
    face_path: Path | None = None
    """Its weights file, where it is not in an installed package."""
    face_sha256: str | None = None
    """Hex sha256 that this file must have; the card's own where None."""
    face_layers: tuple[str, ...] | None = None
    """Layers that are compared; the recogniser's own choice where None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """How often something is written, in optimizer steps."""

    metrics_every: int = 50
    """A line of metrics.jsonl: means since the line before."""
    preview_every: int = 1000
    """A picture of originals and reconstructions."""
    preview_images: int = 8
    """Images in it; the same ones each time."""
    checkpoint_every: int = 1000
    """checkpoint.pt, replaced atomically."""

    def __post_init__(self) -> None:
        for name in ("metrics_every", "preview_every", "preview_images", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"log.{name}={getattr(self, name)} must be at least 1")


class PhaseStep(NamedTuple):
    """A place in the training.

    number: of the phase.
    phase: the phase.
    step: inside the phase, from 0.
    """

    number: int
    phase: Phase
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that decides what a training run computes."""

    recipe: str
    """Name of the recipe it began as."""
    tokenizer: TokenizerConfig
    """Shape of the tokenizer."""
    phases: tuple[Phase, ...]
    """Training periods, in order."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """Shape of the discriminator; built only where a phase uses it."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How weights move."""
    data: DataConfig = field(default_factory=DataConfig)
    """What they learn from."""
    nets: FrozenNetsConfig = field(default_factory=FrozenNetsConfig)
    """What the losses look through."""
    log: LogConfig = field(default_factory=LogConfig)
    """What is written."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights per step, in [0, 1); LlamaGen's value."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast of networks and losses; weights and quantizer stay float32."""
    seed: int = 0
    """Of initial weights, order, windows and codebook restarts; not negative."""
    init: Path | None = None
    """Checkpoint whose averaged weights are the start, in place of random ones: a run's
    checkpoint.pt or the published insight_tok.pt. Optimizers and discriminator start new. The
    run's identity is this file's sha256, wherever it lies."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    """Where it runs; no part of the run's identity."""

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        if not names or len(set(names)) != len(names):
            raise UsageError(f"phases {names}: at least one, and names that differ")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"ema_decay={self.ema_decay} is outside [0, 1)")
        if self.seed < 0:
            raise UsageError(f"seed={self.seed} must not be negative")
        side, factor = self.data.crop.size_px, self.tokenizer.autoencoder.downsampling
        if side % factor:
            raise UsageError(
                f"data.crop.size_px={side} is no multiple of {factor}, the tokenizer's pixels per "
                f"token; choose {side // factor * factor or factor}"
            )

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def uses_discriminator(self) -> bool:
        """Whether any phase does."""
        return any(phase.uses_discriminator for phase in self.phases)

    def phase_at(self, step: int) -> PhaseStep:
        """The phase of a step, both counted from 0.

        Raises:
            ValueError: the step lies outside of all phases.
        """
        start = 0
        for number, phase in enumerate(self.phases):
            if start <= step < start + phase.steps:
                return PhaseStep(number, phase, step - start)
            start += phase.steps
        raise ValueError(f"step {step} is outside [0, {self.total_steps})")

"""`calibrate`: weights of losses through recognisers, from their gradients' lengths at x_hat.

The paper gives no lambda. A loss moves the tokenizer through its gradient at x_hat alone, so losses
are compared there: lambda_text makes the text loss's gradient `target` times as long as that of the
perceptual loss at the recipe's weight (of the pixel loss, where there is no perceptual one), on the
images that have words; lambda_face likewise on those that have faces. Over all images both would
depend on how many of them happen to have none. `global_text_weight` is of a loss that sees whole
images, so there all of them count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from annotations_schema.errors import UsageError
from training.calibration import PROPOSED_ON, Calibration, Measured, summarised
from training.checkpoint import load_checkpoint, load_tokenizer
from training.config import Phase, TrainConfig
from training.data.batch import Batch
from training.data.loader import SampleStream, batches
from training.data.manifest import ManifestDataset
from training.data.split import BatchSplit
from training.losses.gradients import gradient_at
from training.losses.objective import FrozenNets, image_losses
from training.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from training.models.tokenizer import TokenizerConfig
from training.setup import choose_device, images_of, load_frozen_nets, open_dataset
from training.typed_config import from_plain, to_plain

# Apart from the seeds of phases and previews.
_CALIBRATION_SEED = 700_001
_OF_NO_SHAPE = ("beta", "decay", "restart", "restart_threshold", "dropout")


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateConfig:
    """What is measured, and what for."""

    checkpoint: Path | None = None
    """A run's checkpoint, whose reconstructions (averaged weights) and discriminator are measured.
    Without one: originals that are blurred to half their resolution, and no discriminator."""
    batches: int = 16
    """Batches, each of one micro batch of the recipe."""
    target: float = 0.5
    """Length of a proposed loss's weighted gradient as a share of the reference's. At a half the
    regions are heard, and the rest of the picture still decides."""

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise UsageError(f"--batches {self.batches} must be at least 1")
        if not 0 < self.target < math.inf:
            raise UsageError(f"--target {self.target} must be above 0, and finite")


def calibrate(config: TrainConfig, sources: Sequence[Path], chosen: CalibrateConfig) -> Calibration:
    """Measure gradients over real batches and propose weights of the losses in `PROPOSED_ON`.

    The first phase that has such a weight is measured: its images, channel reduction, banners, and
    those of these losses that it has. Where no phase has one, it is the last phase with text and
    face loss. In float32. Nothing is written.

    Args:
        config: a recipe's configuration.
        sources: dataset folders or manifest files.
        chosen: how much is measured, and on what.

    Raises:
        UsageError: data without such regions, a checkpoint of another kind or architecture.
        WeightsError: weights of a frozen network that are absent or wrong.
    """
    phases = _phases_to_weigh(config)
    config, phase = replace(config, phases=phases), phases[0]
    device = choose_device(config.machine.device)
    if config.machine.threads:
        torch.set_num_threads(config.machine.threads)
    dataset = open_dataset(config, sources)
    nets = load_frozen_nets(config, device)
    model = _Reconstructor(config, chosen.checkpoint, device)
    measured = [
        _measure(phase, batch, model, nets)
        for batch in tqdm(
            _batches(config, dataset, chosen.batches, device),
            total=chosen.batches,
            unit="batch",
            disable=None,
        )
    ]
    return summarised(
        measured,
        phases,
        recipe=config.recipe,
        measured_on=model.name,
        target=chosen.target,
    )


class _Reconstructor:
    """Originals to what is measured in place of a training's reconstructions."""

    def __init__(self, config: TrainConfig, path: Path | None, device: torch.device) -> None:
        self._tokenizer = self.discriminator = None
        self.name = "originals blurred to half their resolution, since no --checkpoint is given"
        if path is None:
            return
        tokenizer = load_tokenizer(path, device)
        _check_shape(path, tokenizer.config, config)
        self._tokenizer, self.name = tokenizer.requires_grad_(False), f"reconstructions of {path}"
        state = load_checkpoint(path, device)
        weights = state.get("training", {}).get("discriminator")
        if weights is not None:
            shape = from_plain(DiscriminatorConfig, state["config"]["discriminator"])
            discriminator = PatchDiscriminator(shape).to(device)
            discriminator.load_state_dict(weights)
            self.discriminator = discriminator.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        if self._tokenizer is not None:
            x_hat: Tensor = self._tokenizer(x).x_hat
            return x_hat
        half = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
        return F.interpolate(half, x.shape[2:], mode="bilinear")


def _measure(phase: Phase, batch: Batch, model: _Reconstructor, nets: FrozenNets) -> Measured:
    objective, regions = phase.objective, batch.regions
    x_hat = model(batch.images).requires_grad_()
    losses = image_losses(
        objective,
        x=batch.images,
        x_hat=x_hat,
        regions=regions,
        nets=nets,
        discriminator=model.discriminator,
    )
    available = nets._asdict() | {"reconstruction": True, "adversarial": model.discriminator}
    gradients = {
        name: gradient_at(loss(), x_hat)
        for name, loss in losses.items()
        if available[name] is not None
    }
    everyone = torch.ones(len(x_hat), dtype=torch.bool)
    members = {
        "all": everyone,
        "with_text": _has_region(everyone, regions.text_image, regions.text_weight),
        "with_face": _has_region(everyone, regions.face_image, regions.face_weight),
    }
    return Measured(
        {name: g.double().square().sum((1, 2, 3)).cpu() for name, g in gradients.items()}, members
    )


def _has_region(everyone: Tensor, image_index: Tensor, weight: Tensor) -> Tensor:
    weights = torch.zeros(len(everyone)).index_add_(0, image_index.cpu(), weight.cpu())
    return weights > 0


def _phases_to_weigh(config: TrainConfig) -> tuple[Phase, ...]:
    """The phases that have a loss to weigh; where none has, the last one with text and face."""
    found = [
        phase
        for phase in config.phases
        if any(getattr(phase.objective, f"{term}_weight") for term in PROPOSED_ON)
    ]
    last = config.phases[-1]
    both = replace(last.objective, text_weight=1.0, face_weight=1.0)
    return tuple(found) or (replace(last, objective=both),)


def _batches(
    config: TrainConfig, dataset: ManifestDataset, count: int, device: torch.device
) -> Iterator[Batch]:
    size = min(config.data.stream.batch_size, config.machine.micro_batch)
    stream = SampleStream(
        dataset,
        images_of(dataset, config.phases[0]),
        config.data.crop,
        config.seed + _CALIBRATION_SEED,
    )
    split = BatchSplit(batch_size=size, micro_batch=size)
    workers = config.machine.num_workers
    for loaded in batches(
        stream, config.data.stream, split, start_step=0, num_steps=count, num_workers=workers
    ):
        yield loaded.to(device)


def _check_shape(path: Path, found: TokenizerConfig, config: TrainConfig) -> None:
    theirs, ours = _flat(to_plain(found)), _flat(to_plain(config.tokenizer))
    different = [
        f"{key} is {theirs[key]}, not {ours[key]}"
        for key in ours
        if theirs[key] != ours[key] and key.rpartition(".")[2] not in _OF_NO_SHAPE
    ]
    if different:
        raise UsageError(
            f"{path} holds another tokenizer than recipe {config.recipe}: {'; '.join(different)}; "
            "name the recipe it was trained with, and its --set"
        )


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in plain.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        flat.update({f"{prefix}{key}": value} if inner is None else inner)
    return flat

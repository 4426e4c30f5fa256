"""What a training run needs before its first step: device, images, frozen networks.

Everything that can be wrong with them is found here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from annotations_schema.errors import UsageError
from training.config import Phase, TrainConfig
from training.data.batch import Batch
from training.data.loader import SampleStream, batches
from training.data.manifest import ManifestDataset
from training.losses.objective import FrozenNets
from training.models.frozen.perceptual import load_perceptual
from training.models.frozen.recognisers import load_face_recogniser, load_text_recogniser

# Apart from the seeds of the phases, so that no two streams show the same windows.
_PREVIEW_SEED = 500_009


def choose_device(name: str) -> torch.device:
    """The device of a name; auto is CUDA where there is one.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device={name!r} is no device; write cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device={name!r}: this machine has {torch.cuda.device_count()} GPUs")
    return device


def open_dataset(config: TrainConfig, sources: Sequence[Path]) -> ManifestDataset:
    """The images, checked against what the phases ask of them.

    Raises:
        UsageError: as `ManifestDataset`, or a phase needs regions and there are none.
    """
    dataset = ManifestDataset(
        sources, min_side_px=config.data.min_side_px, images_root=config.data.images_root
    )
    for phase in config.phases:
        # A region loss on data without regions would be 0 at every step, and nobody would notice.
        if phase.objective.text_weight and not dataset.counts.text_regions:
            raise UsageError(_no_regions(phase, "text_weight", "text region"))
        if phase.objective.face_weight and not dataset.counts.faces:
            raise UsageError(_no_regions(phase, "face_weight", "valid face"))
        if not len(images_of(dataset, phase)):
            raise UsageError(_no_regions(phase, "images=with_regions", "region"))
    return dataset


def images_of(dataset: ManifestDataset, phase: Phase) -> NDArray[np.int64]:
    """Indices (N,) of the images that take part in a phase."""
    return dataset.with_regions() if phase.images == "with_regions" else np.arange(len(dataset))


def load_frozen_nets(config: TrainConfig, device: torch.device) -> FrozenNets:
    """The networks that some phase needs, in evaluation mode, without gradients.

    Raises:
        UsageError: an unknown name or layer.
        WeightsError: weights that are absent or wrong.
    """
    names, objectives = config.nets, [phase.objective for phase in config.phases]
    perceptual = text = face = None
    if any(o.perceptual_weight for o in objectives):
        layers = names.perceptual_layers
        perceptual = load_perceptual(names.perceptual, names.perceptual_path, layers=layers)
    if any(o.text_weight for o in objectives):
        text = load_text_recogniser(
            names.text, names.text_path, layers=names.text_layers, width=names.text_width
        )
    if any(o.face_weight for o in objectives):
        face = load_face_recogniser(names.face, names.face_path, layers=names.face_layers)
    for net in (perceptual, text, face):
        if net is not None:
            net.to(device).eval().requires_grad_(False)
    return FrozenNets(perceptual=perceptual, text=text, face=face)


def preview_batch(config: TrainConfig, dataset: ManifestDataset) -> Batch:
    """The images of the previews, the same every time; with regions, where there are such."""
    indices = dataset.with_regions()
    if not len(indices):
        indices = np.arange(len(dataset))
    seed = config.seed + _PREVIEW_SEED
    stream = SampleStream(dataset, indices, config.data.crop, seed)
    count = min(config.log.preview_images, len(dataset))
    sizes = replace(config.data.stream, batch_size=count, num_workers=0)
    return next(batches(stream, sizes, start=0, num_batches=1, pin_memory=False)).batch


def summary(config: TrainConfig, dataset: ManifestDataset, device: torch.device) -> str:
    """One line about what is to be trained on what."""
    c = dataset.counts
    return (
        f"recipe {config.recipe}, {config.total_steps} steps on {device}; {c.used} of {c.rows} "
        f"images ({c.not_ok} not ok, {c.too_small} too small), {c.text_regions} text regions, "
        f"{c.faces} faces"
    )


def _no_regions(phase: Phase, option: str, region: str) -> str:
    return (
        f"phase {phase.name} sets {option}, but no image of --data has a {region}; annotate it "
        "with a detector, or change that option"
    )

"""What a training run needs before its first step: device, images, frozen networks.

Everything that can be wrong with them is found here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from annotations_schema.errors import UsageError
from annotations_schema.layout import sha256_file
from annotations_schema.weights import resolve
from training.config import Phase, TrainConfig
from training.data.batch import Batch
from training.data.loader import SampleStream, batches
from training.data.manifest import ManifestDataset
from training.data.mixture import Mixture
from training.data.split import BatchSplit
from training.distributed import Ranks
from training.losses.objective import FrozenNets
from training.machine import MachineConfig
from training.models.frozen.cards import pinned_card
from training.models.frozen.perceptual import load_perceptual, perceptual_file
from training.models.frozen.recognisers import load_face_recogniser, load_text_recogniser
from training.models.frozen.text_detector import load_text_detector

# Apart from the seeds of the phases, so that no two streams show the same windows.
_PREVIEW_SEED = 500_009


def prepare_device(machine: MachineConfig, ranks: Ranks) -> torch.device:
    """The device of this process, and torch set up for it.

    Raises:
        UsageError: no such device here, or fewer GPUs than ranks on this machine.
    """
    if machine.threads:
        torch.set_num_threads(machine.threads)
    device = choose_device(machine.device)
    if device.type == "cuda":
        if ranks.size > 1:
            device = choose_device(f"cuda:{ranks.local_rank}")
        torch.cuda.set_device(device)
        # TF32 for convolutions; not for matrix products, by which the quantizer picks its codes.
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = False
        # Each new shape is timed, which pays only where shapes come back.
        torch.backends.cudnn.benchmark = machine.static_regions
    return device


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
        sources,
        min_side_px=config.data.min_side_px,
        images_root=config.data.images_root,
        where=config.data.where,
        weights=config.data.weights,
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


def images_of(dataset: ManifestDataset, phase: Phase) -> Mixture:
    """The images that take part in a phase, and how often each is drawn."""
    return dataset.mixture(only_with_regions=phase.images == "with_regions")


def load_frozen_nets(config: TrainConfig, device: torch.device) -> FrozenNets:
    """The networks that some phase needs, in evaluation mode, without gradients.

    Raises:
        UsageError: an unknown name or layer.
        WeightsError: weights that are absent or wrong.
    """
    names, needed = config.nets, _needed_nets(config)
    perceptual = text = face = global_text = None
    if "perceptual" in needed:
        perceptual = load_perceptual(
            names.perceptual,
            names.perceptual_path,
            layers=names.perceptual_layers,
            download=names.perceptual_download,
            sha256=names.perceptual_sha256,
        )
    if "text" in needed:
        text = load_text_recogniser(
            names.text,
            names.text_path,
            layers=names.text_layers,
            width=names.text_width,
            sha256=names.text_sha256,
        )
    if "face" in needed:
        face = load_face_recogniser(
            names.face, names.face_path, layers=names.face_layers, sha256=names.face_sha256
        )
    if "global_text" in needed:
        global_text = load_text_detector(
            names.global_text,
            names.global_text_path,
            layers=names.global_text_layers,
            sha256=names.global_text_sha256,
        )
    for net in (perceptual, text, face, global_text):
        if net is not None:
            net.to(device).eval().requires_grad_(False)
    return FrozenNets(perceptual=perceptual, text=text, face=face, global_text=global_text)


def frozen_net_hashes(config: TrainConfig) -> dict[str, str]:
    """Hex sha256 of the weights file of each network that `load_frozen_nets` loads, by its name.

    Raises:
        WeightsError: as there.
    """
    names, needed = config.nets, _needed_nets(config)
    files = {}
    if "perceptual" in needed:
        files[names.perceptual] = perceptual_file(
            names.perceptual,
            names.perceptual_path,
            download=names.perceptual_download,
            sha256=names.perceptual_sha256,
        )
    if "text" in needed:
        card = pinned_card(names.text, names.text_sha256)
        files[names.text] = resolve(card, names.text_path)
    if "face" in needed:
        card = pinned_card(names.face, names.face_sha256)
        files[names.face] = resolve(card, names.face_path)
    if "global_text" in needed:
        card = pinned_card(names.global_text, names.global_text_sha256)
        files[names.global_text] = resolve(card, names.global_text_path)
    return {name: sha256_file(file) for name, file in files.items()}


def preview_batch(config: TrainConfig, dataset: ManifestDataset) -> Batch:
    """The images of the previews, the same every time; with regions, where there are such."""
    indices = dataset.with_regions()
    if not len(indices):
        indices = np.arange(len(dataset))
    seed = config.seed + _PREVIEW_SEED
    stream = SampleStream(dataset, Mixture.of(indices), config.data.crop, seed)
    count = min(config.log.preview_images, len(dataset))
    split = BatchSplit(batch_size=count, micro_batch=count)
    return next(batches(stream, config.data.stream, split, start_step=0, num_steps=1)).to("cpu")


def summary(config: TrainConfig, dataset: ManifestDataset, device: torch.device) -> str:
    """One line about what is to be trained on what."""
    c = dataset.counts
    return (
        f"recipe {config.recipe}, {config.total_steps} steps on {device}; {c.used} of {c.rows} "
        f"images ({c.not_ok} not ok, {c.not_chosen} not chosen, {c.too_small} too small), "
        f"{c.text_regions} text regions, {c.faces} faces"
    )


def _needed_nets(config: TrainConfig) -> set[str]:
    """Which of the frozen networks' terms have a weight in some phase."""
    kinds = ("perceptual", "text", "face", "global_text")
    objectives = [phase.objective for phase in config.phases]
    return {kind for kind in kinds if any(getattr(o, f"{kind}_weight") for o in objectives)}


def _no_regions(phase: Phase, option: str, region: str) -> str:
    return (
        f"phase {phase.name} sets {option}, but no image of --data has a {region}; annotate it "
        "with a detector, or change that option"
    )

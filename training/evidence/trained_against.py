"""The losses on held-out windows: how far each run pleases the networks it was trained by.

A loss in a network's features can be lowered by pixels that please this network alone. So this
score stands beside those of the judges: where it falls and theirs do not rise, the run has learnt
its recogniser and not to write.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from annotations_schema.layout import atomic_write, sha256_file
from training.checkpoint import load_tokenizer
from training.data.batch import Batch
from training.data.loader import SampleStream, batches
from training.data.mixture import Mixture
from training.data.split import BatchSplit
from training.evidence.plan import Scale
from training.losses.objective import image_losses
from training.losses.objective_config import ObjectiveConfig
from training.recipes import RECIPES
from training.setup import load_frozen_nets, open_dataset
from training.typed_config import with_overrides

NUM_BATCHES = 24
TERMS = ("text", "face", "perceptual")
_SEED = 77


def trained_against(
    scale: Scale, held_out: Sequence[Path], checkpoints: Sequence[Path], file: Path
) -> dict[str, dict[str, float]]:
    """Mean text, face and perceptual loss by run over the same held-out windows; kept in `file`.

    A run whose checkpoint is still the one that was measured is not measured again.
    """
    known = json.loads(file.read_text()) if file.exists() else {}
    names = {path.parent.name: path for path in checkpoints}
    # The layers count too: another choice of them is another loss.
    settings = " ".join(scale.arm_settings)
    hashes = {name: f"{sha256_file(path)} {settings}" for name, path in names.items()}
    missing = [name for name in names if known.get(name, {}).get("of") != hashes[name]]
    if missing:
        objective = ObjectiveConfig(
            perceptual_weight=1, adversarial_weight=0, text_weight=1, face_weight=1
        )
        config = with_overrides(RECIPES[scale.recipe](), scale.arm_settings)
        config = replace(config, phases=(replace(config.phases[0], objective=objective),))
        dataset = open_dataset(config, held_out)
        device = torch.device(scale.device)
        nets = load_frozen_nets(config, device)
        stream = SampleStream(dataset, Mixture.of(dataset.with_regions()), config.data.crop, _SEED)
        size = config.data.stream.batch_size
        split = BatchSplit(batch_size=size, micro_batch=size)
        windows = list(
            batches(stream, config.data.stream, split, start_step=0, num_steps=NUM_BATCHES)
        )
        for name in missing:
            tokenizer = load_tokenizer(names[name], device)
            found = []
            for loaded in windows:
                batch: Batch = loaded.to(device)
                with torch.inference_mode():
                    losses = image_losses(
                        objective,
                        x=batch.images,
                        x_hat=tokenizer(batch.images).x_hat,
                        regions=batch.regions,
                        nets=nets,
                        discriminator=None,
                    )
                    found.append([losses[term]().item() for term in TERMS])
            means = np.mean(found, axis=0).tolist()
            known[name] = {"of": hashes[name], **dict(zip(TERMS, means, strict=True))}
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps(known, indent=2) + "\n")
    return {name: {term: known[name][term] for term in TERMS} for name in names}

"""The loss curve that refactoring must not move: 20 steps over the three phases, in small."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.training_datasets import few_pictures, write_dataset
from tests.training_micro import three_phases
from training.config import TrainConfig
from training.run_folder import RunFolder
from training.train_tokenizer import train_tokenizer

GOLDEN = Path(__file__).with_name("loss_curve.txt")
STEPS = (8, 8, 4)


def config() -> TrainConfig:
    """Base with a discriminator, regions, decoder alone."""
    phases = three_phases().phases
    return replace(
        three_phases(),
        phases=tuple(replace(p, steps=s) for p, s in zip(phases, STEPS, strict=True)),
    )


def loss_curve(folder: Path) -> list[tuple[int, float]]:
    """Train in `folder`; (step, total loss) of every step."""
    root = write_dataset(folder / "dataset", few_pictures(96))
    train_tokenizer(config(), [root], folder / "run")
    metrics = RunFolder(folder / "run").metrics.read_text().splitlines()
    return [(line["step"], line["total"]) for line in map(json.loads, metrics)]


def to_text(curve: list[tuple[int, float]]) -> str:
    """One `step loss` line each."""
    return "".join(f"{step} {loss:.6g}\n" for step, loss in curve)


def from_text(text: str) -> list[tuple[int, float]]:
    """What `to_text` wrote, at its precision."""
    return [(int(step), float(loss)) for step, loss in map(str.split, text.splitlines())]

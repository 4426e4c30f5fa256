"""SIGKILL at random moments of a real training: after --resume it ends as if nothing had happened.

A seed draws the moments. `make test` kills one run once, `make test-all` others many times.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training_datasets import few_pictures, write_dataset
from training.checkpoint import load_checkpoint
from training.metrics import TIMING_KEYS
from training.run_folder import RunFolder

STEPS_EACH = 15
NUM_STEPS = 3 * STEPS_EACH
SETTINGS = (
    "machine.threads=1",
    "data.crop.size_px=32",
    "data.crop.min_text_px=4",
    "data.crop.min_face_px=8",
    "data.stream.batch_size=2",
    "tokenizer.autoencoder.norm_groups=4",
    "tokenizer.autoencoder.channels=8",
    "tokenizer.autoencoder.attention_levels=1",
    "tokenizer.autoencoder.channel_multipliers=1,2",
    "tokenizer.autoencoder.z_channels=8",
    "tokenizer.quantizer.codebook_size=32",
    "tokenizer.quantizer.codebook_dim=8",
    "discriminator.norm_groups=8",
    "discriminator.channels=8",
    "phases.*.objective.perceptual_weight=0",
    "phases.*.objective.text_weight=0",
    "phases.*.objective.face_weight=0",
    "phases.base.objective.discriminator_start=1",
    "phases.base.objective.adversarial_start=2",
    f"phases.*.steps={STEPS_EACH}",
    "precision=float32",
    "log.metrics_every=2",
    "log.checkpoint_every=7",
    "log.preview_every=10",
    "log.preview_images=1",
)
LONGEST_RUN_S = 300.0
SEEDS = [
    pytest.param(0, 1, id="one-kill"),
    *(pytest.param(seed, 6, id=f"six-kills-{seed}", marks=pytest.mark.long) for seed in (1, 2, 3)),
]


def start(root: Path, out: Path, *, resume: bool) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "training", "tokenizer", "--recipe", "llamagen_72m",
        "--data", str(root), "--out", str(out), "--set", *SETTINGS,
    ]  # fmt: skip
    with (out.parent / f"{out.name}.log").open("a") as log:
        return subprocess.Popen([*command, *["--resume"] * resume], stderr=log, text=True)


def finish(process: subprocess.Popen[str], out: Path) -> None:
    code = process.wait(LONGEST_RUN_S)
    assert code == 0, (out.parent / f"{out.name}.log").read_text()


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    """The metrics lines, without what differs between two equal runs."""
    parsed = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING_KEYS} for line in parsed]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Trained and averaged weights, and the discriminator's."""
    saved = load_checkpoint(path)
    parts = {
        "model": saved["model"],
        "ema": saved["ema"]["module"],
        "discriminator": saved["training"]["discriminator"],
    }
    return {f"{part}.{name}": w for part, tree in parts.items() for name, w in tree.items()}


def assert_equal_runs(one: RunFolder, other: RunFolder) -> None:
    names = ["checkpoint.pt", *(f"phase_{phase}.pt" for phase in ("base", "regions", "decoder"))]
    for name in names:
        ours, theirs = weights(one.root / name), weights(other.root / name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert lines(one) == lines(other)
    pictures = [sorted(p.name for p in (f.root / "previews").iterdir()) for f in (one, other)]
    assert pictures[0] == pictures[1]
    assert not list(one.root.rglob("*.tmp"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", few_pictures(64))


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(root, out, resume=False), out)
    return RunFolder(out)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "kills"), SEEDS)
def test_a_killed_and_resumed_run_equals_an_undisturbed_one(
    root: Path, undisturbed: RunFolder, tmp_path: Path, seed: int, kills: int
) -> None:
    dice = random.Random(seed)
    folder = RunFolder(tmp_path / "run")
    for number in range(kills):
        process = start(root, folder.root, resume=number > 0)
        # The first not before there is a checkpoint, a past to go on from.
        steps = dice.randrange(8, 20) if number == 0 else dice.randrange(1, 6)
        kill(process, folder, at_step=step_of(folder) + steps, pause_s=dice.uniform(0, 0.05))
    last = start(root, folder.root, resume=True)
    finish(last, folder.root)
    assert_equal_runs(folder, undisturbed)
    events = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0})
    events.Reload()
    expected = [line["step"] for line in lines(undisturbed)]
    assert [event.step for event in events.Scalars("loss/total")] == expected


def kill(
    process: subprocess.Popen[str], folder: RunFolder, *, at_step: int, pause_s: float
) -> None:
    """SIGKILL a moment after the metrics tell of a step."""
    deadline = time.monotonic() + LONGEST_RUN_S
    while step_of(folder) < at_step and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(pause_s)
    process.send_signal(signal.SIGKILL)
    assert process.wait(LONGEST_RUN_S) == -signal.SIGKILL
    assert folder.checkpoint.exists()


def step_of(folder: RunFolder) -> int:
    """The last step that has a whole line."""
    if not folder.metrics.exists():
        return 0
    whole = [line for line in folder.metrics.read_text().split("\n")[:-1] if line]
    return int(json.loads(whole[-1])["step"]) if whole else 0

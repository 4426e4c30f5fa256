"""How fast an evaluation is, and how much of its time no network uses."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from annotations_schema import FaceRegions, TextRegions
from tests.evaluation_cases import ASTRONAUT_LANDMARKS, add_words_column, page_of_words
from tests.training_datasets import Picture, write_dataset
from training.checkpoint import save_checkpoint
from training.evaluation import EvaluateConfig, EvaluationResult, evaluate
from training.models.tokenizer import CONFIGS, Tokenizer
from training.typed_config import to_plain

NUM_IMAGES = 32
SIDE_PX = 256
WORDS = ("Market", "OPEN", "Street", "parking", "Exit", "coffee", "Hotel", "Books")


def bench_evaluate() -> None:
    """A tokenizer of the smallest size on pictures of 256 px, with the default judges.

    The smallest tokenizer is the hardest case for the share outside networks: a larger one spends
    more time inside. Every second picture is a page of four words, every other one a portrait.
    """
    with tempfile.TemporaryDirectory(prefix="bench-evaluate-") as temporary:
        folder = Path(temporary)
        root = _dataset(folder / "data")
        checkpoint = _checkpoint(folder / "run" / "checkpoint.pt")
        cases: Mapping[str, EvaluateConfig] = {
            "default judges": EvaluateConfig(data=(root,)),
            "and JPEG, untrained": EvaluateConfig(data=(root,), jpeg=True, untrained=True),
            "no networks for pictures": EvaluateConfig(data=(root,), perceptual="none", fid="none"),
        }
        results = {
            name: evaluate([checkpoint], folder / "out", config) for name, config in cases.items()
        }
    for name, result in results.items():
        _show(name, result)


def _show(name: str, result: EvaluationResult) -> None:
    seconds = dict(result.seconds)
    total, networks = seconds.pop("total"), seconds.pop("networks")
    parts = ", ".join(f"{part} {value:.2f}" for part, value in seconds.items())
    print(
        f"\n{name}: {result.counts['images']} images of {SIDE_PX} px, {len(result.systems)} "
        f"systems: {result.images_per_s:.2f} images/s, {total:.1f} s, "
        f"{100 * result.share_outside_networks:.1f} % outside networks ({total - networks:.2f} s)"
        f"\n  seconds: {parts}"
    )


def _dataset(root: Path) -> Path:
    pictures, words = [], []
    for number in range(NUM_IMAGES):
        if number % 2:
            pictures.append(_portrait(number))
            words.append(None)
            continue
        chosen = [WORDS[(number + i) % len(WORDS)] for i in range(4)]
        placed = {
            word: (10 + number, 10 + 60 * i, 28 + number % 9) for i, word in enumerate(chosen)
        }
        page, found = page_of_words(placed, SIDE_PX, SIDE_PX)
        pictures.append(Picture(page, TextRegions.empty(), FaceRegions.empty()))
        words.append(found)
    write_dataset(root, pictures)
    add_words_column(root, words)
    return root


def _portrait(number: int) -> Picture:
    """The astronaut's face at changing places of the frame."""
    left, top = 80 + number, 2 * (number // 4)
    crop = np.ascontiguousarray(data.astronaut()[top : top + SIDE_PX, left : left + SIDE_PX])
    box = np.array([177, 56, 272, 176]) - [left, top, left, top]
    faces = FaceRegions.from_landmarks(
        [box.tolist()], [0.99], [ASTRONAUT_LANDMARKS - [left, top]], *crop.shape[1::-1]
    )
    return Picture(np.asarray(Image.fromarray(crop)), TextRegions.empty(), faces)


def _checkpoint(path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = Tokenizer(CONFIGS["tiny"])
    plain = {"tokenizer": to_plain(CONFIGS["tiny"])}
    save_checkpoint(path, {"model": tokenizer.state_dict(), "config": plain})
    return path

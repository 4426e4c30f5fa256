"""The loop: each image is decoded once, given to every system, and its regions are judged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.evaluation.annotations import EvaluationImage, Problem, UnusableImageError, Word
from training.evaluation.config import EvaluateConfig
from training.evaluation.face import FaceNet
from training.evaluation.fidelity import Fidelity, fidelity
from training.evaluation.protocol import (
    ORIGINAL,
    RESIZE_ONLY,
    Reconstruct,
    frame,
    reconstruct_square,
    unframe,
)
from training.evaluation.scorers import FaceScorer, View, WordScorer
from training.evaluation.text import TextRecogniser

Image = NDArray[np.uint8]


class Judges(NamedTuple):
    """The networks that judge; None leaves a metric out."""

    text: TextRecogniser | None
    face: FaceNet | None


@dataclass(kw_only=True, slots=True)
class Measurements:
    """Everything that was measured, by system in the order of `systems`."""

    systems: tuple[str, ...]
    words: WordScorer | None
    faces: FaceScorer | None
    image_ids: list[str] = field(default_factory=list)
    fidelity: list[tuple[Fidelity, ...]] = field(default_factory=list)
    """Per image, one per system."""
    problems: list[Problem] = field(default_factory=list)
    """Images and annotations that could not be used."""
    num_unreadable: int = 0
    """Images among them."""
    reconstruct_s: float = 0.0
    total_s: float = 0.0

    @property
    def network_s(self) -> float:
        """Seconds inside tokenizers and judges."""
        judges = (self.words, self.faces)
        return self.reconstruct_s + sum(judge.network_s for judge in judges if judge is not None)

    @property
    def all_problems(self) -> list[Problem]:
        """Problems of images, words and faces."""
        of_words = self.words.problems if self.words is not None else []
        of_faces = self.faces.problems if self.faces is not None else []
        return [*self.problems, *of_words, *of_faces]


def measure(
    images: Sequence[EvaluationImage],
    tokenizers: Mapping[str, Reconstruct],
    judges: Judges,
    config: EvaluateConfig,
) -> Measurements:
    """Judge every image under every system: the original, the resizing alone, each tokenizer.

    Deterministic for given images, tokenizers and judges.
    """
    start = time.perf_counter()
    found = Measurements(
        systems=(ORIGINAL, RESIZE_ONLY, *tokenizers),
        words=_word_scorer(judges.text, config),
        faces=_face_scorer(judges.face, config),
    )
    for image in tqdm(images, desc="evaluate", unit="image"):
        found.problems.extend(image.problems)
        try:
            pixels = image.load()
        except UnusableImageError as error:
            found.problems.append(Problem(image.image_id, error.code, error.detail))
            found.num_unreadable += 1
            continue
        _measure_image(found, image, pixels, tokenizers, config)
    for scorer in (found.words, found.faces):
        if scorer is not None:
            scorer.flush()
    found.total_s = time.perf_counter() - start
    return found


def _word_scorer(text: TextRecogniser | None, config: EvaluateConfig) -> WordScorer | None:
    if text is None:
        return None
    return WordScorer(recogniser=text, batch_size=config.batch_size, is_refined=config.refine)


def _face_scorer(face: FaceNet | None, config: EvaluateConfig) -> FaceScorer | None:
    return None if face is None else FaceScorer(net=face, batch_size=config.batch_size)


def _measure_image(
    found: Measurements,
    image: EvaluationImage,
    pixels: Image,
    tokenizers: Mapping[str, Reconstruct],
    config: EvaluateConfig,
) -> None:
    square, framing = frame(pixels, config.size)
    start = time.perf_counter()
    squares = [reconstruct_square(name, call, square) for name, call in tokenizers.items()]
    found.reconstruct_s += time.perf_counter() - start
    outputs = (pixels, *(unframe(output, framing) for output in (square, *squares)))
    view = View(len(found.image_ids), image.image_id, outputs)
    found.image_ids.append(image.image_id)
    found.fidelity.append(tuple(fidelity(pixels, output) for output in outputs))
    if found.words is not None:
        found.words.add(view, _words_to_read(image, config))
    if found.faces is not None:
        found.faces.add(view, image.faces)


def _words_to_read(image: EvaluationImage, config: EvaluateConfig) -> Sequence[Word]:
    return image.text_boxes if config.text_reference == "original" else image.words

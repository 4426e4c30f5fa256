"""The loop: each image is decoded once, given to every system, and its regions are judged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.evaluation.annotations import EvaluationImage, Problem, UnusableImageError, Word
from training.evaluation.config import EvaluateConfig
from training.evaluation.face import FaceNet
from training.evaluation.fidelity import Fidelity, fidelity
from training.evaluation.frechet import FrechetNet
from training.evaluation.perceptual import PerceptualNet
from training.evaluation.pictures import PictureScorer
from training.evaluation.protocol import (
    ORIGINAL,
    RESIZE_ONLY,
    Reconstruct,
    frame,
    reconstruct_square,
    unframe,
    without_padding,
)
from training.evaluation.scorers import FaceScorer, View, WordScorer
from training.evaluation.text import TextRecogniser

Image = NDArray[np.uint8]

FIDELITY_THREADS = 2
"""PSNR and SSIM are computed beside the networks; the arrays' libraries let go of Python's lock."""


class Judges(NamedTuple):
    """The networks that judge; None leaves a metric out."""

    text: TextRecogniser | None
    face: FaceNet | None
    perceptual: PerceptualNet | None
    frechet: FrechetNet | None


@dataclass(kw_only=True, slots=True)
class Measurements:
    """Everything that was measured, by system in the order of `systems`."""

    systems: tuple[str, ...]
    words: WordScorer | None
    faces: FaceScorer | None
    pictures: PictureScorer
    image_ids: list[str] = field(default_factory=list)
    fidelity: list[tuple[Fidelity, ...]] = field(default_factory=list)
    """Per image, one per system."""
    problems: list[Problem] = field(default_factory=list)
    """Images and annotations that could not be used."""
    num_unreadable: int = 0
    """Images among them."""
    reconstruct_s: dict[str, float] = field(default_factory=dict)
    """Seconds in each tokenizer."""
    total_s: float = 0.0

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
        pictures=PictureScorer(perceptual=judges.perceptual, frechet=judges.frechet),
        reconstruct_s=dict.fromkeys(tokenizers, 0.0),
    )
    with ThreadPoolExecutor(max_workers=FIDELITY_THREADS) as beside:
        compared: list[Future[Fidelity]] = []
        for image in tqdm(images, desc="evaluate", unit="image"):
            found.problems.extend(image.problems)
            try:
                pixels = image.load()
            except UnusableImageError as error:
                found.problems.append(Problem(image.image_id, error.code, error.detail))
                found.num_unreadable += 1
                _lose_regions(found, image, config)
                continue
            view = _judge_image(found, image, pixels, tokenizers, config)
            # One image at a time: more of them in flight would be more of them in memory.
            _keep_fidelity(found, compared)
            compared = [beside.submit(fidelity, pixels, output) for output in view.outputs]
        _keep_fidelity(found, compared)
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


def _keep_fidelity(found: Measurements, compared: Sequence[Future[Fidelity]]) -> None:
    if compared:
        found.fidelity.append(tuple(future.result() for future in compared))


def _judge_image(
    found: Measurements,
    image: EvaluationImage,
    pixels: Image,
    tokenizers: Mapping[str, Reconstruct],
    config: EvaluateConfig,
) -> View:
    """Reconstruct an image and queue what networks judge; its fidelity is left to the caller."""
    square, framing = frame(pixels, config.size)
    squares = [square]
    for name, call in tokenizers.items():
        start = time.perf_counter()
        squares.append(reconstruct_square(name, call, square))
        found.reconstruct_s[name] += time.perf_counter() - start
    outputs = (pixels, *(unframe(output, framing) for output in squares))
    found.pictures.add(len(found.image_ids), [without_padding(one, framing) for one in squares])
    view = View(len(found.image_ids), image.image_id, outputs)
    found.image_ids.append(image.image_id)
    if found.words is not None:
        found.words.add(view, _words_to_read(image, config))
    if found.faces is not None:
        found.faces.add(view, image.faces)
    return view


def _lose_regions(found: Measurements, image: EvaluationImage, config: EvaluateConfig) -> None:
    """Count what is annotated in an image that cannot be judged."""
    if found.words is not None:
        found.words.lose(image.image_id, _words_to_read(image, config))
    if found.faces is not None:
        found.faces.lose(image.image_id, image.faces)


def _words_to_read(image: EvaluationImage, config: EvaluateConfig) -> Sequence[Word]:
    return image.text_boxes if config.text_reference == "original" else image.words

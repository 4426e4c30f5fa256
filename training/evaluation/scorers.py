"""Words and faces of many images, judged in batches that span images.

A scorer keeps the crops of every system until a batch is full, so a network sees full batches even
where an image has one word. The order of the systems is fixed: the original first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from annotations_schema.geometry import warp_affine
from training.evaluation.annotations import Face, Problem, ProblemCode, Word
from training.evaluation.face import FaceNet, FaceScore, face_ratio, fit_face, score_faces
from training.evaluation.highlights import Highlight, Highlights
from training.evaluation.text import (
    TextRecogniser,
    WordScore,
    character_ratio,
    crop_word,
    score_word,
)

Image = NDArray[np.uint8]

MIN_REFERENCE_CHARACTERS = 2
"""Shorter readings of the original are no reference: specks of texture read as one character."""


class View(NamedTuple):
    """One image as every system gives it, (H, W, 3) uint8 of one shape, the original first."""

    number: int
    image_id: str
    outputs: tuple[Image, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), pixels."""
        return self.outputs[0].shape[1], self.outputs[0].shape[0]


class WordMeasurement(NamedTuple):
    """One word as every system gives it.

    image: index of the image. word: index in the image's annotations.
    """

    image: int
    word: int
    reference: str
    ratio: float
    scores: tuple[WordScore, ...]


class FaceMeasurement(NamedTuple):
    """One face as every system gives it; `image` and `face` are indices as in WordMeasurement."""

    image: int
    face: int
    ratio: float
    scores: tuple[FaceScore, ...]


class _PendingWord(NamedTuple):
    view_number: int
    image_id: str
    size: tuple[int, int]
    word_index: int
    word: Word
    crops: tuple[Image, ...]


class _PendingFace(NamedTuple):
    view_number: int
    image_id: str
    face_index: int
    ratio: float
    canvases: tuple[Image, ...]


@dataclass(kw_only=True, slots=True)
class WordScorer:
    """Collects words, reads them in batches, scores them.

    A word without transcription gets the recogniser's own reading of the original as reference.
    """

    recogniser: TextRecogniser
    batch_size: int
    is_refined: bool
    """Leave out words that the recogniser does not read in the original (TokBench's --refine)."""
    measurements: list[WordMeasurement] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    highlights: Highlights = field(default_factory=Highlights)
    num_annotated: int = 0
    """Every annotated word: those judged, and one problem for each of the others."""
    num_images: int = 0
    """Images with an annotated word."""
    unknown_characters: Counter[str] = field(default_factory=Counter)
    """Characters outside the recogniser's alphabet: in how many words each occurs."""
    network_s: float = 0.0
    _pending: list[_PendingWord] = field(default_factory=list)

    def add(self, view: View, words: Sequence[Word]) -> None:
        """Queue an image's words; reads when a batch is full."""
        self._count(words)
        for index, word in enumerate(words):
            self._queue(view, index, word)
        if sum(len(pending.crops) for pending in self._pending) >= self.batch_size:
            self.flush()

    def lose(self, image_id: str, words: Sequence[Word]) -> None:
        """Count the words of an image that cannot be decoded."""
        self._count(words)
        for index, word in enumerate(words):
            detail = f"{word.text!r}"
            self._reject(image_id, index, ProblemCode.WORD_IN_UNUSABLE_IMAGE, detail)

    def flush(self) -> None:
        """Read and score everything queued."""
        crops = [crop for pending in self._pending for crop in pending.crops]
        start = time.perf_counter()
        reads = iter(self.recogniser.read(crops) if crops else [])
        self.network_s += time.perf_counter() - start
        for pending in self._pending:
            self._score(pending, [next(reads) for _ in pending.crops])
        self._pending.clear()

    def _count(self, words: Sequence[Word]) -> None:
        self.num_annotated += len(words)
        self.num_images += bool(words)

    def _queue(self, view: View, index: int, word: Word) -> None:
        problem = self._unreadable_text(word.text)
        if problem is not None:
            self._reject(view.image_id, index, *problem)
            return
        cut = [crop_word(output, word.box_xyxy, word.quad) for output in view.outputs]
        # Copied: a view would keep every system's whole image until the batch is full.
        crops = tuple(crop.copy() for crop in cut if crop is not None)
        if len(crops) < len(cut):
            detail = f"nothing of box {word.box_xyxy} lies in {view.size[0]}x{view.size[1]}"
            self._reject(view.image_id, index, ProblemCode.WORD_OUTSIDE_IMAGE, detail)
            return
        self._pending.append(
            _PendingWord(view.number, view.image_id, view.size, index, word, crops)
        )

    def _unreadable_text(self, text: str | None) -> tuple[ProblemCode, str] | None:
        """Why the recogniser could not write this truth, None where it could."""
        if text is None:
            return None
        if not text:
            return ProblemCode.WORD_EMPTY, "no text"
        unknown = sorted(set(text) - self.recogniser.alphabet)
        self.unknown_characters.update(unknown)
        detail = f"{text!r} has {''.join(unknown)!r}"
        return (ProblemCode.WORD_OUTSIDE_ALPHABET, detail) if unknown else None

    def _reject(self, image_id: str, index: int, code: ProblemCode, detail: str) -> None:
        self.problems.append(Problem(image_id, code, f"word {index}: {detail}"))

    def _score(self, pending: _PendingWord, reads: list[str]) -> None:
        word = pending.word
        reference = reads[0] if word.text is None else word.text
        if not self._is_readable(word, reads[0]):
            detail = f"{word.text!r} reads {reads[0]!r} in the original"
            code = ProblemCode.WORD_UNREADABLE_IN_ORIGINAL
            self._reject(pending.image_id, pending.word_index, code, detail)
            return
        ratio = word.ratio
        if ratio is None:
            ratio = character_ratio(word.box_xyxy, len(reference), pending.size)
        scores = tuple(score_word(reference, read) for read in reads)
        self.measurements.append(
            WordMeasurement(pending.view_number, pending.word_index, reference, ratio, scores)
        )
        self.highlights.add(
            Highlight(
                title=reference,
                image_id=pending.image_id,
                crops=pending.crops,
                captions=tuple(f"{s.read} ({s.similarity:.2f})" for s in scores),
                change=_spread([s.similarity for s in scores[1:]]),
                verdicts=tuple(s.is_exact for s in scores),
            )
        )

    def _is_readable(self, word: Word, read_in_original: str) -> bool:
        """Whether the word may be judged: always, but for a missing truth or under `is_refined`."""
        if word.text is None:
            return len(read_in_original) >= MIN_REFERENCE_CHARACTERS
        return not self.is_refined or read_in_original == word.text


@dataclass(kw_only=True, slots=True)
class FaceScorer:
    """Collects faces, embeds them in batches, compares each with its original."""

    net: FaceNet
    batch_size: int
    measurements: list[FaceMeasurement] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    highlights: Highlights = field(default_factory=Highlights)
    num_annotated: int = 0
    """Every annotated face: those judged, and one problem for each of the others."""
    num_images: int = 0
    """Images with an annotated face."""
    network_s: float = 0.0
    _pending: list[_PendingFace] = field(default_factory=list)

    def add(self, view: View, faces: Sequence[Face]) -> None:
        """Align an image's faces and queue them; embeds when a batch is full."""
        self._count(faces)
        for index, face in enumerate(faces):
            self._queue(view, index, face)
        if sum(len(pending.canvases) for pending in self._pending) >= self.batch_size:
            self.flush()

    def lose(self, image_id: str, faces: Sequence[Face]) -> None:
        """Count the faces of an image that cannot be decoded."""
        self._count(faces)
        for index in range(len(faces)):
            code = ProblemCode.FACE_IN_UNUSABLE_IMAGE
            self.problems.append(Problem(image_id, code, f"face {index}"))

    def flush(self) -> None:
        """Embed and score everything queued."""
        canvases = [canvas for pending in self._pending for canvas in pending.canvases]
        if not canvases:
            return
        start = time.perf_counter()
        embeddings = self.net.embed(canvases)
        self.network_s += time.perf_counter() - start
        by_face = embeddings.reshape(len(self._pending), -1, embeddings.shape[1])
        for pending, systems in zip(self._pending, by_face, strict=True):
            original = np.broadcast_to(systems[0], systems.shape)
            self._score(pending, score_faces(original, systems))
        self._pending.clear()

    def _count(self, faces: Sequence[Face]) -> None:
        self.num_annotated += len(faces)
        self.num_images += bool(faces)

    def _queue(self, view: View, index: int, face: Face) -> None:
        fit = fit_face(face.landmarks_5, self.net)
        if fit.matrix is None or not face.is_valid:
            reason = fit.verdict if fit.matrix is None else "invalid by the annotation"
            detail = f"face {index}: landmarks are {reason}"
            self.problems.append(Problem(view.image_id, ProblemCode.FACE_NOT_ALIGNABLE, detail))
            return
        if _is_outside(face.landmarks_5, view.size):
            # Black would be compared with black, and agree.
            detail = f"face {index}: no landmark lies in {view.size[0]}x{view.size[1]}"
            self.problems.append(Problem(view.image_id, ProblemCode.FACE_OUTSIDE_IMAGE, detail))
            return
        side = self.net.canvas_px
        canvases = tuple(warp_affine(image, fit.matrix, (side, side)) for image in view.outputs)
        ratio = face.ratio if face.ratio is not None else face_ratio(face.box_xyxy, view.size)
        self._pending.append(_PendingFace(view.number, view.image_id, index, ratio, canvases))

    def _score(self, pending: _PendingFace, scores: list[FaceScore]) -> None:
        self.measurements.append(
            FaceMeasurement(pending.view_number, pending.face_index, pending.ratio, tuple(scores))
        )
        self.highlights.add(
            Highlight(
                title=f"face {pending.face_index}",
                image_id=pending.image_id,
                crops=pending.canvases,
                captions=tuple(f"{score.similarity:.3f}" for score in scores),
                change=_spread([score.similarity for score in scores[1:]]),
            )
        )


def counts_by_code(problems: Sequence[Problem]) -> dict[str, int]:
    """Number of problems by code, sorted by code."""
    return dict(sorted(Counter(str(problem.code) for problem in problems).items()))


def _is_outside(landmarks_5: NDArray[np.float64], size: tuple[int, int]) -> bool:
    """Whether no landmark, in pixel centres, lies in an image of (width, height) pixels."""
    is_inside = (landmarks_5 >= -0.5) & (landmarks_5 < np.array(size) - 0.5)
    return not is_inside.all(axis=1).any()


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)

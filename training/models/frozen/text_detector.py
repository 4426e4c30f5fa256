"""A text detector's features of whole images, as OCR-VQGAN compares them (Rodriguez et al. 2023).

OCR-VQGAN adds to VQGAN's loss a distance in the features of a text detector, over the whole image
and without regions: it is what a local loss must beat. Its detector is CRAFT; this one is the DBNet
that is installed anyway, whose features of three scales hold strokes, letters and words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from annotations_schema.errors import UsageError
from annotations_schema.weights import resolve
from training.models.frozen.cards import pinned_card
from training.models.frozen.feature_net import FeatureNet, InputRule, check_layers
from training.models.frozen.perceptual import PerceptualDistance

TEXT_DETECTORS: Mapping[str, Mapping[str, str]] = {
    "ppocr_v6_small_det": {
        "stem": "p2o.pd_op.relu.4.0",  # 48 channels at 1/4
        "stage1": "Add.33",  # 48 at 1/4
        "stage2": "Add.65",  # 96 at 1/8
        "stage3": "Add.121",  # 192 at 1/16
    }
}
"""Tensors by layer, finest first, by the detector's name."""

# (x + 1) / 2 lies in [0, 1]; from that ImageNet's mean, over its deviation; channels stand in the
# order blue, green, red and the constants do not, as PaddleOCR runs it.
_RULE = InputRule(
    size=None,
    is_bgr=True,
    scale=(0.5 / 0.229, 0.5 / 0.224, 0.5 / 0.225),
    shift=(0.015 / 0.229, 0.044 / 0.224, 0.094 / 0.225),
)


def load_text_detector(
    name: str,
    path: Path | None = None,
    *,
    layers: Sequence[str] | None = None,
    sha256: str | None = None,
) -> PerceptualDistance:
    """The distance of images in the features of a text detector, unweighted over channels.

    Args:
        name: key of `TEXT_DETECTORS`.
        path: the weights file, where it is not the installed package's.
        layers: layers to compare; all when None.
        sha256: what the weights file must be, in place of the card's own.

    Raises:
        UsageError: the name or a layer is unknown, or `sha256` is none.
        WeightsError: the file is absent or is not the right one.
    """
    if name not in TEXT_DETECTORS:
        raise UsageError(
            f"text detector {name!r} is unknown: choose one of {', '.join(TEXT_DETECTORS)}"
        )
    tensors = TEXT_DETECTORS[name]
    chosen = tuple(tensors) if layers is None else tuple(layers)
    check_layers(chosen, tuple(tensors), name)
    file = resolve(pinned_card(name, sha256), path)
    # Imported here: runs without this term do without the library onnx.
    from training.models.frozen.onnx_net import OnnxNet

    net = OnnxNet(file.read_bytes(), [tensors[layer] for layer in chosen])
    return PerceptualDistance(FeatureNet(net, _RULE, chosen))
